//! A plugin that was built by another compiler than its host.

use std::path::{Path, PathBuf};

use hotbay::{ErrorKind, Host, Request};
use hotbay_tests::{Plugins, block_on, unique};

use super::child_processes::{cargo, compiler, library_of};
use super::{host_that_never_quarantines, load, panicked, unload};

/// Folder for the libraries.
const FOLDER: &str = "other-compiler";

fn rustc_of(folder: &Path) -> String {
    let inspection = hotbay::inspect::plugin(&Host::builder(), folder);
    let built = inspection.surveyed.built;
    built.expect("a plugin has a stamp").rustc
}

fn built_by(toolchain: &str, package: &str) -> PathBuf {
    let built = cargo(Some(toolchain), FOLDER, &["build", "--package", package]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr);
    library_of(&built)
}

#[test]
fn plugin_of_another_compiler_loads_and_answers() {
    let plugins = Plugins::new();
    let own = rustc_of(&plugins.add("own", "versioned-1").write());
    let other = ["nightly", "beta", "stable"]
        .into_iter()
        .filter_map(|toolchain| Some((toolchain, compiler(toolchain)?)))
        .find(|(_, version)| *version != own);
    let Some((toolchain, other)) = other else {
        println!("skipped: no compiler but `{own}` is installed");
        return;
    };

    let host = host_that_never_quarantines();
    let install = |package| {
        let name = unique("other");
        let library =
            std::fs::read(built_by(toolchain, package)).expect("the library was just built");
        let plugin = plugins.add(&name, package);
        let folder = plugin.bytes(|bytes| *bytes = library).write();
        assert_eq!(rustc_of(&folder), other);
        (load(&host, &folder), name)
    };

    let (transform, name) = install("transform");
    let reply = block_on(transform.execute(Request::text("straße"))).expect("the plugin answers");
    assert_eq!(reply.as_text().expect("text"), "STRASSE");
    drop((reply, transform));
    assert_eq!(unload(&host, &name), Some(0));

    let (versioned, name) = install("versioned-1");
    for input in ["panic", "payload"] {
        let called = block_on(versioned.execute(Request::text(input)));
        let error = called.expect_err("the plugin panics");
        let fault = panicked(&error, ErrorKind::Panicked);
        assert!(fault.location().is_some(), "{fault}");
    }
    drop(versioned);
    unload(&host, &name);
}
