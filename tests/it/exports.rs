//! Output of `export_plugin!`: no warnings for strict authors, no symbols that could collide, a
//! compile error if panics cannot be caught, and libraries that were built by another compiler.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hotbay::{ErrorKind, Host, LoadStep, Request};
use hotbay_tests::{Plugins, block_on, cargo, compiler, library_of, messages, unique};

use crate::naive::{answer, host_that_never_quarantines, load, panicked, unload};

/// Folder for builds that only these tests use.
const FOLDER: &str = "facts";

/// Folder for libraries of another compiler.
const OTHER_COMPILER: &str = "other-compiler";

fn exports(folder: &Path) -> BTreeSet<String> {
    let inspection = hotbay::inspect::plugin(&Host::builder(), folder);
    inspection.exports.into_iter().collect()
}

#[test]
fn export_under_strict_lints_has_no_warnings() {
    for package in ["versioned-1", "versioned-2", "contracts-2021", "contracts-2024"] {
        check_has_no_warnings(None, FOLDER, package);
    }
}

#[test]
fn contracts_under_lints_of_nightly_have_no_warnings() {
    if compiler("nightly").is_none() {
        println!("skipped: no nightly compiler is installed");
        return;
    }
    for package in ["contracts-2021", "contracts-2024"] {
        check_has_no_warnings(Some("nightly"), OTHER_COMPILER, package);
    }
}

#[track_caller]
fn check_has_no_warnings(toolchain: Option<&str>, folder: &str, package: &str) {
    let has_clippy = cargo(toolchain, folder, &["clippy", "--version"]).code() == Some(0);
    let check = if has_clippy { "clippy" } else { "check" };
    let built = cargo(toolchain, folder, &[check, "--package", package]);
    assert_eq!(built.code(), Some(0), "{}", built.stderr);
    let warnings: Vec<_> = messages(&built)
        .filter(|message| message["reason"] == "compiler-message")
        .filter(|message| {
            let id = message["package_id"].as_str().unwrap_or_default();
            id.contains(package)
        })
        .collect();
    assert_eq!(warnings, Vec::<serde_json::Value>::new());
}

#[test]
fn export_with_panic_abort_fails_to_compile() {
    let abort = "profile.dev.panic=\"abort\"";
    let arguments = ["check", "--package", "versioned-1", "--config", abort];
    let built = cargo(None, FOLDER, &arguments);
    assert_eq!(built.code(), Some(101), "{built:?}");
    let errors: Vec<_> = messages(&built)
        .filter(|message| message["message"]["level"] == "error")
        .filter_map(|message| message["message"]["message"].as_str().map(str::to_owned))
        .collect();
    let expected =
        "a plugin needs `panic = \"unwind\"`: with \"abort\", a panic in the plugin ends the host";
    assert!(errors.iter().any(|error| error == expected), "{errors:?}");
}

#[test]
fn exported_symbols_are_stamp_root_and_contracts_only() {
    let expected = ["HOTBAY_PLUGIN_STAMP", "_1as_0lib_1header_0root_bmodule_bloader"];
    let expected = BTreeSet::from(expected.map(str::to_owned));
    let plugins = Plugins::new();
    for package in ["versioned-1", "versioned-2", "own-allocator", "transform"] {
        let folder = plugins.add("exports", package).write();
        assert_eq!(exports(&folder), expected, "{package}");
    }
    let contracts = BTreeSet::from(["HOTBAY_PLUGIN_CONTRACTS".to_owned()]);
    let expected = &expected | &contracts;
    for package in ["contracts-2021", "contracts-2024", "analyst"] {
        let folder = plugins.add("exports", package).write();
        assert_eq!(exports(&folder), expected, "{package}");
    }
}

#[test]
fn plugin_without_export_feature_is_refused() {
    let arguments = ["build", "--package", "versioned-1", "--no-default-features"];
    let built = cargo(None, FOLDER, &arguments);
    assert_eq!(built.code(), Some(0), "{}", built.stderr);
    let library = std::fs::read(library_of(&built)).expect("the library was just built");

    let (plugins, name) = (Plugins::new(), unique("plain"));
    let plugin = plugins.add(&name, "versioned-1");
    let folder = plugin.bytes(|bytes| *bytes = library).write();
    assert_eq!(exports(&folder), BTreeSet::new());
    let error = block_on(host_that_never_quarantines().load(&folder)).expect_err("no stamp");
    assert_eq!(error.step(), Some(LoadStep::Probe), "{error:?}");
}

#[test]
fn custom_allocator_allocations_are_counted() {
    let (plugins, name) = (Plugins::new(), unique("alloc"));
    let host = host_that_never_quarantines();
    let plugin = load(&host, &plugins.add(&name, "own-allocator").write());
    for leak in [1_000, 24] {
        let input = vec![0; leak];
        block_on(plugin.execute(Request::bytes(&input))).expect("the plugin answers");
    }
    let allocations: u32 = answer(&plugin).parse().expect("a number");
    assert!(allocations >= 2, "the author's allocator made {allocations} allocations");
    drop(plugin);
    assert_eq!(unload(&host, &name), Some(1_024));
}

#[test]
fn uncounted_plugin_has_unknown_leaked_bytes() {
    let (plugins, name) = (Plugins::new(), unique("no-count"));
    let host = host_that_never_quarantines();
    let plugin = load(&host, &plugins.add(&name, "versioned-2").write());
    assert_eq!(answer(&plugin), "version 2, call 1");
    drop(plugin);
    assert_eq!(unload(&host, &name), None);
}

fn rustc_of(folder: &Path) -> String {
    let inspection = hotbay::inspect::plugin(&Host::builder(), folder);
    let built = inspection.surveyed.built;
    built.expect("a plugin has a stamp").rustc
}

fn built_by(toolchain: &str, package: &str) -> PathBuf {
    let built = cargo(Some(toolchain), OTHER_COMPILER, &["build", "--package", package]);
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
