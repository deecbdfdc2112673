//! Crashes of a plugin host as usually written: panics, panic payloads, and half-written libraries.

use std::env;
use std::path::Path;

use hotbay::{ErrorKind, Host, LoadStep, Request};
use hotbay_tests::{Plugins, block_on, library, mappings, run_in_subprocess, unique};
use serde_json::json;

use super::{
    SIGABRT, SIGBUS, SIGSEGV, answer, check_died, host_that_never_quarantines, load, naive,
    panicked, unload,
};

/// Set in the subprocess whose output a test checks.
const ALONE: &str = "HOTBAY_TESTS_ALONE";

#[test]
fn panic_leaving_library_aborts_naive_host_faults_hotbay() {
    let library = library("naive-1");
    check_died(
        &naive(&["panic-out-of-c".as_ref(), &library]),
        SIGABRT,
        "panic in a function that cannot unwind",
    );
    check_died(
        &naive(&["panic-into-host".as_ref(), &library]),
        SIGABRT,
        "Rust cannot catch foreign exceptions",
    );

    let (plugins, name) = (Plugins::new(), unique("panics"));
    let host = host_that_never_quarantines();
    let plugin = load(&host, &plugins.add(&name, "versioned-1").write());
    for round in 1..=10 {
        let here = plugin.call(Request::text("panic"));
        let there = block_on(plugin.execute(Request::text("panic")));
        for answer in [here, there] {
            let error = answer.expect_err("the call panics");
            let fault = panicked(&error, ErrorKind::Panicked);
            assert_eq!(fault.message(), "out of a call");
            let location = fault.location().expect("a panic by macro has a location");
            assert!(location.contains("versioned-1/src/lib.rs:"), "{location}");
        }
        assert_eq!(answer(&plugin), format!("version 1, call {round}"));
    }
    unload(&host, &name);
}

#[test]
fn panic_in_method_exits_naive_host_faults_hotbay() {
    let naive = naive(&["panic-in-object".as_ref(), &library("naive-1")]);
    assert_eq!(naive.code(), Some(1), "{naive:?}");
    assert!(!naive.stdout.contains("caught"), "{naive:?}");

    let (plugins, name) = (Plugins::new(), unique("methods"));
    let host = host_that_never_quarantines();
    for method in ["init", "health"] {
        let plugin = plugins.add(&name, "versioned-1");
        let folder = plugin.config(json!({ "panics": method })).write();
        let error = block_on(host.load(&folder)).expect_err("the load panics");
        let fault = panicked(&error, ErrorKind::StartFailed);
        assert_eq!(fault.message(), format!("out of {method}"));
        assert_eq!(mappings(&name), 0, "a refused plugin is still mapped");
    }
    let folder = plugins.add(&name, "versioned-1").write();
    assert_eq!(answer(&load(&host, &folder)), "version 1, call 1");
    unload(&host, &name);
}

#[test]
fn panic_backtrace_pins_library_of_naive_host_only() {
    let test = concat!(module_path!(), "::panic_backtrace_pins_library_of_naive_host_only");
    if env::var_os(ALONE).is_some() {
        return panics_leave_no_mapping();
    }
    let ended = run_in_subprocess(test, &[(ALONE, "1"), ("RUST_BACKTRACE", "1")]);
    let printed = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(printed, "", "the plugin printed something");

    let naive = naive(&["panic-printed".as_ref(), &library("naive-1")]);
    assert_eq!(naive.code(), Some(0), "{naive:?}");
    assert!(naive.stderr.contains("caught inside"), "{naive:?}");
    let left = naive.stdout.lines().find_map(|line| line.strip_prefix("mappings: "));
    let left: usize = left.and_then(|left| left.parse().ok()).expect("a number");
    assert!(left > 0, "this compiler no longer pins the library: {naive:?}");
}

/// Runs in a subprocess whose output the test above checks.
fn panics_leave_no_mapping() {
    let (plugins, name) = (Plugins::new(), unique("frames"));
    let host = Host::builder().quarantine(None).capture_panic_backtrace(true).build();
    let host = host.expect("the host builds");
    let plugin = load(&host, &plugins.add(&name, "versioned-1").write());
    assert!(mappings(&name) > 0, "a loaded library is mapped");
    let here = plugin.call(Request::text("panic"));
    let there = block_on(plugin.execute(Request::text("panic")));
    for answer in [here, there] {
        let error = answer.expect_err("the call panics");
        let fault = panicked(&error, ErrorKind::Panicked);
        assert!(!fault.frames().is_empty(), "frames were requested");
    }
    drop(plugin);
    assert_eq!(unload(&host, &name), Some(0), "a fault leaks nothing");
}

#[test]
fn panic_in_payload_drop_aborts_naive_host_faults_hotbay() {
    let naive = naive(&["payload".as_ref(), &library("naive-1")]);
    check_died(&naive, SIGABRT, "a payload's drop");

    let (plugins, name) = (Plugins::new(), unique("payload"));
    let host = host_that_never_quarantines();
    let plugin = load(&host, &plugins.add(&name, "versioned-1").write());
    for answer in
        [plugin.call(Request::text("payload")), block_on(plugin.execute(Request::text("payload")))]
    {
        let error = answer.expect_err("the call panics");
        let fault = panicked(&error, ErrorKind::Panicked);
        assert_eq!(fault.message(), "(panic payload is not a string)");
    }
    assert_eq!(answer(&plugin), "version 1, call 1");
    unload(&host, &name);
}

/// Returns an offset in the middle of the mapped library: its constants precede its data.
fn middle_of(bytes: &[u8], text: &str) -> usize {
    let text = text.as_bytes();
    let middle = bytes.windows(text.len()).position(|window| window == text);
    middle.expect("the library contains the text")
}

type Damage = fn(&mut Vec<u8>, usize);

/// States of a library that is being written.
const DAMAGES: [(&str, Damage); 5] = [
    ("a quarter", |bytes, middle| bytes.truncate(middle / 4)),
    ("a half", |bytes, middle| bytes.truncate(middle / 2)),
    ("three quarters", |bytes, middle| {
        bytes.truncate(middle / 4 * 3);
    }),
    ("the first part", |bytes, middle| bytes.truncate(middle)),
    ("a hole", |bytes, middle| bytes[middle..].fill(0)),
];

#[test]
fn half_written_library_crashes_naive_host_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let whole = std::fs::read(library("naive-1")).expect("the library was just built");
    let middle = middle_of(&whole, "out of a function of C");
    for (what, damage) in DAMAGES {
        let file = folder.path().join(format!("{what}.so"));
        let mut bytes = whole.clone();
        damage(&mut bytes, middle);
        std::fs::write(&file, &bytes).expect("the file can be written");
        let naive = naive(&["open".as_ref(), &file]);
        let signal = naive.signal();
        assert!(matches!(signal, Some(SIGBUS | SIGSEGV)), "{what}: {naive:?}");
    }

    let plugins = Plugins::new();
    let host = Host::builder().allow_unverified(true).build();
    let host = host.expect("the host builds");
    for (what, damage) in DAMAGES {
        let name = unique("written");
        let damage = |bytes: &mut Vec<u8>| {
            let middle = middle_of(bytes, "out of a call");
            damage(bytes, middle);
        };
        let check = |folder: &Path, step| {
            let error = block_on(host.load(folder)).expect_err(what);
            assert_eq!(error.step(), Some(step), "{what}: {}", error.full_message());
            assert_eq!(mappings(&name), 0, "{what}: a refused library is mapped");
        };
        let plugin = plugins.add(&name, "versioned-1").stale_digest();
        check(&plugin.bytes(damage).write(), LoadStep::Digest);
        // An incomplete library is never opened, even without a digest.
        let plugin = plugins.add(&name, "versioned-1").unverified();
        check(&plugin.bytes(damage).write(), LoadStep::Probe);
    }
}
