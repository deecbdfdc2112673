//! `hotbay new` and `hotbay build`: creates plugins, builds and installs them.

use std::path::{Path, PathBuf};

use hotbay_build::new_plugin::{self, Sdk};
use hotbay_build::plugins;

use crate::Status;
use crate::args::Build;
use crate::failure::Failure;

/// The SDK beside the sources that this command was built from.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugin-api");

pub(crate) fn new(options: &new_plugin::Options) -> Result<Status, Failure> {
    let path = Path::new(SDK).canonicalize().ok();
    let sdk = Sdk { version: hotbay::hotbay_plugin::API_VERSION, path };
    new_plugin::create(options, sdk).map_err(|error| failure("plugin not created", &error))?;
    Ok(Status::Success)
}

pub(crate) fn build(args: &Build) -> Result<Status, Failure> {
    let out = std::path::absolute(&args.out);
    let out = out.map_err(|error| Failure::io("cannot determine the current folder", &error))?;
    let from = match args.folders.as_slice() {
        [] => vec![PathBuf::from(".")],
        folders => folders.to_vec(),
    };
    let build = plugins::Build { from, names: &[], out, target: None, release: args.release };
    let built = if args.watch { build.watch() } else { build.run() };
    built.map_err(|error| failure("not all plugins were built", &error))?;
    Ok(Status::Success)
}

fn failure(what: &str, error: &anyhow::Error) -> Failure {
    let failure = Failure::new("build", what).because(format!("{error:#}"));
    match hotbay_build::hint_of(error) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
