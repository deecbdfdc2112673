//! `cargo xtask fuzz`: runs the fuzz targets in `tests/fuzz` with libFuzzer, or on mutants of the
//! corpus if `cargo fuzz` or nightly is missing.

use clap::Args;

use crate::require;
use hotbay_build::{Workspace, cargo};

/// The folder of the targets.
const FOLDER: &str = "tests/fuzz";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The target; all of them, one after another, if it is missing.
    target: Option<String>,
    /// Seconds per target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Fails if `cargo fuzz` is missing.
    #[arg(long)]
    libfuzzer: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let installed = require::nightly(workspace)
        .and_then(|()| require::subcommand(workspace, "fuzz", "cargo install --locked cargo-fuzz"));
    match installed {
        Ok(()) => fuzz(workspace, options),
        Err(error) if options.libfuzzer => Err(error),
        Err(error) => {
            println!("note: {error}; running mutants of the corpus instead");
            replay(workspace, options)
        }
    }
}

fn fuzz(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let targets = match &options.target {
        Some(target) => vec![target.clone()],
        None => {
            let mut command = cargo::nightly(&workspace.root);
            let names = cargo::read(command.args(["fuzz", "list", "--fuzz-dir", FOLDER]))?;
            let names = String::from_utf8_lossy(&names).into_owned();
            names.lines().filter(|name| *name != "replay").map(str::to_owned).collect()
        }
    };
    for target in targets {
        // libFuzzer writes new inputs into the first folder, which is not committed.
        let found = workspace.target.join("fuzz").join(&target);
        std::fs::create_dir_all(&found)?;
        let mut command = cargo::nightly(&workspace.root);
        command.args(["fuzz", "run", "--fuzz-dir", FOLDER, "--features", "libfuzzer", "--dev"]);
        command.arg("--target-dir").arg(workspace.target.join("fuzz-build"));
        command.arg(&target).arg(found).arg(format!("{FOLDER}/corpus/{target}"));
        command.args(["--", &format!("-max_total_time={}", options.seconds), "-timeout=20"]);
        cargo::run(&mut command)?;
    }
    Ok(())
}

fn replay(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["run", "--quiet", "--package", "hotbay-fuzz", "--bin", "replay", "--"]);
    command.arg(options.target.as_deref().unwrap_or_default());
    cargo::run(command.arg(options.seconds.to_string()))
}
