//! What `export_plugin!` makes of a crate: nothing for the author to be warned of, nothing that
//! others could collide with, and nothing at all where it could not keep its word.

use std::collections::BTreeSet;
use std::path::Path;

use hotbay::{Host, LoadStep, Request};
use hotbay_tests::{Plugins, block_on, unique};

use super::children::{cargo, library_of, messages};
use super::{answer, host_that_never_quarantines, load, unload};

/// Where these tests build what nobody else wants.
const FOLDER: &str = "facts";

fn exports(folder: &Path) -> BTreeSet<String> {
    let inspection = Host::builder().inspect(folder);
    inspection.exports.into_iter().collect()
}

#[test]
fn strict_authors_of_both_editions_get_no_warning() {
    let has_clippy = cargo(None, FOLDER, &["clippy", "--version"]).code() == Some(0);
    let check = if has_clippy { "clippy" } else { "check" };
    for package in ["versioned-1", "versioned-2"] {
        let built = cargo(None, FOLDER, &[check, "--package", package]);
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
}

#[test]
fn a_plugin_that_could_not_catch_a_panic_does_not_compile() {
    let abort = "profile.dev.panic=\"abort\"";
    let arguments = ["check", "--package", "versioned-1", "--config", abort];
    let built = cargo(None, FOLDER, &arguments);
    assert_eq!(built.code(), Some(101), "{built:?}");
    let errors: Vec<_> = messages(&built)
        .filter(|message| message["message"]["level"] == "error")
        .filter_map(|message| message["message"]["message"].as_str().map(str::to_owned))
        .collect();
    let wanted =
        "a plugin needs `panic = \"unwind\"`: with \"abort\", a panic in the plugin ends the host";
    assert!(errors.iter().any(|error| error == wanted), "{errors:?}");
}

#[test]
fn a_plugin_exports_its_stamp_and_its_root_and_nothing_else() {
    let wanted = ["HOTBAY_PLUGIN_STAMP", "_1as_0lib_1header_0root_bmodule_bloader"];
    let wanted: BTreeSet<String> = wanted.map(str::to_owned).into();
    let plugins = Plugins::new();
    for package in ["versioned-1", "versioned-2", "own-allocator", "transform"] {
        let folder = plugins.add("exports", package).write();
        assert_eq!(exports(&folder), wanted, "{package}");
    }
}

#[test]
fn a_plugin_without_its_feature_exports_nothing_and_is_refused() {
    let arguments = ["build", "--package", "versioned-1", "--no-default-features"];
    let built = cargo(None, FOLDER, &arguments);
    assert_eq!(built.code(), Some(0), "{}", built.stderr);
    let library = std::fs::read(library_of(&built)).expect("it was just built");

    let (plugins, name) = (Plugins::new(), unique("plain"));
    let plugin = plugins.add(&name, "versioned-1");
    let folder = plugin.bytes(|bytes| *bytes = library).write();
    assert_eq!(exports(&folder), BTreeSet::new());
    let error = block_on(host_that_never_quarantines().load(&folder)).expect_err("no stamp");
    assert_eq!(error.step(), Some(LoadStep::Probe), "{error:?}");
}

#[test]
fn allocations_are_counted_around_an_allocator_of_the_authors() {
    let (plugins, name) = (Plugins::new(), unique("allocator"));
    let host = host_that_never_quarantines();
    let plugin = load(&host, &plugins.add(&name, "own-allocator").write());
    for leak in [1_000, 24] {
        let input = vec![0; leak];
        block_on(plugin.execute(Request::bytes(&input))).expect("it answers");
    }
    let allocations: u32 = answer(&plugin).parse().expect("a number");
    assert!(allocations >= 2, "the author's allocator was asked {allocations} times");
    drop(plugin);
    assert_eq!(unload(&host, &name), Some(1_024));
}

#[test]
fn an_uncounted_plugin_leaks_nobody_knows_how_much() {
    let (plugins, name) = (Plugins::new(), unique("uncounted"));
    let host = host_that_never_quarantines();
    let plugin = load(&host, &plugins.add(&name, "versioned-2").write());
    assert_eq!(answer(&plugin), "version 2, call 1");
    drop(plugin);
    assert_eq!(unload(&host, &name), None);
}
