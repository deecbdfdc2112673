//! Several builds of one plugin in one process, and what abi_stable's own loader keeps of the
//! first.

use std::fs;
use std::path::Path;

use hotbay::{ErrorKind, Host, LoadStep};
use hotbay_tests::{Plugins, block_on, library, unique};

use super::{SIGSEGV, answer, check_printed, host_that_never_quarantines, load, naive, unload};

/// Number of times both versions are loaded.
const ROUNDS: usize = 20;

#[test]
fn second_version_loads_beside_first_unlike_naive_host() {
    let (first, second) = (library("naive-1"), library("naive-2"));
    // Each one alone is compatible with this host.
    check_printed(&naive(&["check-and-keep".as_ref(), &first]), "version 1\n");
    check_printed(&naive(&["check-and-keep".as_ref(), &second]), "version 2\n");
    let both = naive(&["check-and-keep".as_ref(), &first, &second]);
    check_printed(&both, "version 1\nrefused\n");
    // The checker accesses the first library, which is closed.
    let both = naive(&["check-and-close".as_ref(), &first, &second]);
    assert_eq!(both.signal(), Some(SIGSEGV), "{both:?}");
    assert_eq!(both.stdout, "version 1\n");

    let (plugins, name) = (Plugins::new(), unique("version"));
    let host = host_that_never_quarantines();
    let folders = [("one", "versioned-1"), ("two", "versioned-2")]
        .map(|(folder, package)| plugins.add_in(folder, &name, package).write());
    for _ in 0..ROUNDS {
        for (folder, version) in folders.iter().zip([1, 2]) {
            let plugin = load(&host, folder);
            // The first call of this library, although the same file was loaded before.
            assert_eq!(answer(&plugin), format!("version {version}, call 1"));
            drop(plugin);
            let leaked_bytes = unload(&host, &name);
            let expected = (version == 1).then_some(0);
            assert_eq!(leaked_bytes, expected, "the second version is not counted");
        }
    }
    assert_eq!(host.retained(), []);
}

#[test]
fn second_load_maps_second_library_unlike_naive_host() {
    let (first, second) = (library("naive-1"), library("naive-2"));
    let nowhere = Path::new("/no/such/library.so");
    let loads = naive(&["load".as_ref(), &first, &second, nowhere]);
    check_printed(&loads, "version 1\nversion 1\nversion 1\n");
    check_printed(&naive(&["load".as_ref(), &second]), "version 2\n");
    check_printed(&naive(&["load".as_ref(), nowhere]), "refused\n");

    let plugins = Plugins::new();
    let host = host_that_never_quarantines();
    let names = [unique("load"), unique("load"), unique("load")];
    let packages = ["versioned-1", "versioned-2", "versioned-1"];
    let loaded: Vec<_> = names
        .iter()
        .zip(packages)
        .map(|(name, package)| load(&host, &plugins.add(name, package).write()))
        .collect();
    // The third one has the same build as the first, but is a separate library.
    let answers: Vec<_> = loaded.iter().map(answer).collect();
    let expected = ["version 1, call 1", "version 2, call 1", "version 1, call 1"];
    assert_eq!(answers, expected);

    let error =
        block_on(host.load(plugins.dir().join("nowhere"))).expect_err("the folder does not exist");
    assert_eq!(error.step(), Some(LoadStep::Manifest));
    let folder = plugins.add(&unique("load"), "versioned-1").write();
    fs::remove_file(folder.join("libversioned_1.so")).expect("the library was just installed");
    let error = block_on(host.load(&folder)).expect_err("the library is missing");
    assert_eq!(error.step(), Some(LoadStep::Stage), "{}", error.full_message());
    assert_eq!(error.kind(), ErrorKind::Integrity);

    drop(loaded);
    for name in names {
        unload(&host, &name);
    }
}

#[test]
fn replaced_file_runs_new_library_unlike_naive_host() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let watched = files.path().join("watched.so");
    let newer = files.path().join("newer.so");
    fs::copy(library("naive-1"), &watched).expect("the file can be copied");
    fs::copy(library("naive-2"), &newer).expect("the file can be copied");
    let opened = naive(&["replaced".as_ref(), &watched, &newer]);
    check_printed(&opened, "version 1\nversion 1\n");
    check_printed(&naive(&["open".as_ref(), &watched]), "version 2\n");

    let (plugins, name) = (Plugins::new(), unique("swapped"));
    let stem = |plugin: hotbay_tests::Plugin| plugin.set("library", "versioned_1");
    let folder = stem(plugins.add_in("old", &name, "versioned-1")).write();
    let (old_host, new_host) = (host_that_never_quarantines(), host_that_never_quarantines());
    let old = load(&old_host, &folder);
    let newer = stem(plugins.add_in("new", &name, "versioned-2")).write();
    // The same path holds another library now.
    let library = newer.join("libversioned_2.so");
    fs::rename(library, folder.join("libversioned_1.so")).expect("both folders are on one disk");
    fs::rename(newer.join("plugin.json"), folder.join("plugin.json")).expect("as above");
    let new = load(&new_host, &folder);
    assert_eq!(answer(&new), "version 2, call 1");
    assert_eq!(answer(&old), "version 1, call 1");
    drop((old, new));
    block_on(Host::shutdown(&old_host, hotbay_tests::LIMIT));
    // Both had the same name, so only now nothing may be mapped.
    unload(&new_host, &name);
}
