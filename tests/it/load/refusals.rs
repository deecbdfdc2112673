//! Refused loads: the step, the message, and that nothing is left.

use std::fs;
use std::path::Path;

use hotbay::hotbay_plugin::API_VERSION;
use hotbay::{ErrorKind, Host, LoadStep, Request};
use hotbay_tests::{
    Plugin, Plugins, host, library_file_name, lines_of, loaded, mappings, refused, threads, unique,
    until,
};
use semver::Version;
use serde_json::json;
use tempfile::TempDir;

/// Loads a corrupted plugin. Checks that it is refused as expected and leaves nothing, and that
/// another plugin works.
#[track_caller]
fn check(
    package: &str,
    corrupt: impl FnOnce(Plugin) -> Plugin,
    (kind, step): (ErrorKind, LoadStep),
    expected: &[&str],
) {
    let (plugins, staging) = (Plugins::new(), TempDir::new().expect("a folder"));
    let name = unique("spoiled");
    let folder = corrupt(plugins.add(&name, package)).write();
    let builder = Host::builder().staging_dir(staging.path());
    let host = builder.build().expect("a host");
    let error = refused(&host, folder);
    let reported = format!("{error:?}");
    assert_eq!((error.kind(), error.step()), (kind, Some(step)), "{reported}");
    for part in expected {
        assert!(reported.contains(part), "`{part}` in: {reported}");
    }
    assert!(lines_of(&error) <= 3, "{reported}");
    assert_eq!(files_below(staging.path()), 0, "a copy is left: {reported}");
    assert_eq!(mappings(&name), 0, "a mapping is left: {reported}");
    // A joined thread may remain listed for a moment.
    until("its thread has exited", || threads(&name).is_empty().then_some(()));
    assert!(host.retained().is_empty() && host.list().is_empty());
    let other = loaded(&host, plugins.add(&unique("other"), "faulty").write());
    let reply = other.call(Request::text("still serving")).expect("an answer");
    assert_eq!(reply.as_bytes(), b"still serving");
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => files_below(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(count).sum()
}

const VERSION: (ErrorKind, LoadStep) = (ErrorKind::Incompatible, LoadStep::Version);
const PROBE: (ErrorKind, LoadStep) = (ErrorKind::Integrity, LoadStep::Probe);
const DIGEST: (ErrorKind, LoadStep) = (ErrorKind::Integrity, LoadStep::Digest);
const STAGE: (ErrorKind, LoadStep) = (ErrorKind::Integrity, LoadStep::Stage);

#[test]
fn manifest_that_rejects_host_api_is_refused() {
    let expected = ["plugin.json requires plugin API `^9.0`", API_VERSION];
    check("faulty", |it| it.set("api", "^9.0"), VERSION, &expected);
}

#[test]
fn library_of_incompatible_api_version_is_refused() {
    let own = Version::parse(API_VERSION).expect("a version");
    let major = format!("{}.{}.{}", own.major + 1, own.minor, own.patch);
    let minor = format!("{}.{}.{}", own.major, own.minor + 1, own.patch);
    for built in [major, minor] {
        let stamped = (format!("api={API_VERSION}\n"), format!("api={built}\n"));
        let corrupt = |it: Plugin| it.patch(&stamped.0, &stamped.1);
        check("faulty", corrupt, VERSION, &[&built, API_VERSION]);
    }
}

#[test]
fn manifest_and_stamp_mismatch_is_refused() {
    let version = |it: Plugin| it.set("version", "9.9.9");
    check("faulty", version, VERSION, &["9.9.9", "0.1.0"]);
    let package = |it: Plugin| it.set("package", "honest");
    check("faulty", package, VERSION, &["`honest`", "`faulty`"]);
}

#[test]
fn library_without_stamp_is_refused_before_opening() {
    check("no-stamp", |it| it, PROBE, &["export_plugin!"]);
}

#[test]
fn stamped_library_without_root_module_is_refused() {
    let step = (ErrorKind::Incompatible, LoadStep::Layout);
    check("no-root", |it| it, step, &["no root module"]);
}

#[test]
fn other_layout_of_same_version_is_refused_concisely() {
    let step = (ErrorKind::Incompatible, LoadStep::Layout);
    let expected = ["different layout under the same version", "rebuild"];
    check("other-layout", |it| it, step, &expected);
}

#[cfg(target_os = "linux")]
#[test]
fn undefined_symbol_is_refused_and_named() {
    let step = (ErrorKind::StartFailed, LoadStep::Open);
    check("missing-symbol", |it| it, step, &["undefined_function"]);
}

#[test]
fn truncated_library_is_refused_with_or_without_digest() {
    for kept in [1, 3, 50, 90, 99] {
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() * kept / 100);
        check("faulty", |it| it.bytes(cut), PROBE, &["incomplete"]);
        let stale = |it: Plugin| it.stale_digest().bytes(cut);
        check("faulty", stale, DIGEST, &["incomplete", "hotbay seal"]);
    }
    let empty = |it: Plugin| it.bytes(Vec::clear);
    check("faulty", empty, PROBE, &["empty"]);
}

#[test]
fn zeroed_hole_is_refused_by_digest() {
    let hole = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(0);
    };
    let expected = ["SHA-256", "incomplete"];
    check("faulty", |it| it.stale_digest().bytes(hole), DIGEST, &expected);
}

#[test]
fn library_without_digest_is_refused_unless_allowed() {
    let expected = ["sha256", "hotbay build", "allow_unverified"];
    check("faulty", Plugin::unverified, DIGEST, &expected);

    let plugins = Plugins::new();
    let folder = plugins.add("plain", "faulty").unverified().write();
    let host = Host::builder().allow_unverified(true).build().unwrap();
    let plain = loaded(&host, folder);
    assert_eq!(plain.call(Request::text("hi")).unwrap().as_bytes(), b"hi");
}

#[test]
fn text_file_named_as_library_is_refused() {
    let text = |it: Plugin| it.bytes(|bytes| *bytes = b"I am a library, honestly.\n".to_vec());
    check("faulty", text, PROBE, &["looks like", "cdylib"]);
}

#[cfg(target_os = "linux")]
#[test]
fn library_of_another_processor_is_refused() {
    // The field `e_machine` of an ELF header; 8 is MIPS.
    let other = |it: Plugin| it.bytes(|bytes| bytes[18..20].copy_from_slice(&[8, 0]));
    check("faulty", other, PROBE, &["build it for the host's target"]);
}

#[test]
fn missing_library_error_lists_existing_ones() {
    let expected = ["fauly", "faulty", "`library` in plugin.json"];
    check("faulty", |it| it.set("library", "fauly"), STAGE, &expected);
}

#[test]
fn plugin_error_fails_load_at_its_step() {
    let error = json!({ "code": 503, "message": "no database", "details": { "port": 5432 } });
    for (entry, kind, step) in [
        ("validate", ErrorKind::Config, LoadStep::Config),
        ("init", ErrorKind::StartFailed, LoadStep::Init),
        ("health", ErrorKind::StartFailed, LoadStep::Health),
    ] {
        let config = json!({ "error_in": entry, "error": error });
        let expected = ["no database", "503"];
        check("faulty", |it| it.config(config), (kind, step), &expected);

        let plugins = Plugins::new();
        let config = json!({ "error_in": entry, "error": error });
        let folder = plugins.add("failing", "faulty").config(config).write();
        let reported = refused(&hotbay_tests::host(&plugins), folder);
        let plugin_error = reported.plugin_error().expect("the plugin's own error");
        assert_eq!(plugin_error.code(), 503);
        assert_eq!(plugin_error.details(), Some(&json!({ "port": 5432 })));
    }
}

#[test]
fn panic_during_start_fails_load_at_its_step() {
    for (entry, step) in
        [("validate", LoadStep::Config), ("init", LoadStep::Init), ("health", LoadStep::Health)]
    {
        let message = format!("in {entry}, on request");
        let config = json!({ "panic_in": entry });
        let expected = [message.as_str(), "behavior.rs:"];
        let step = (ErrorKind::StartFailed, step);
        check("faulty", |it| it.config(config), step, &expected);
    }
}

#[test]
fn config_rejected_by_schema_is_refused_at_field() {
    let schema = json!({ "type": "object", "properties": { "workers": { "type": "integer" } } });
    let corrupt = |it: Plugin| it.set("config_schema", schema).config(json!({ "workers": "many" }));
    let expected = ["plugin.json:", "`config.workers`", "many"];
    check("faulty", corrupt, (ErrorKind::Config, LoadStep::Config), &expected);
}

/// The digest check refuses each library with random damage before it is opened.
#[cfg(unix)]
#[test]
fn damaged_libraries_are_refused_by_digest() {
    use std::os::unix::fs::FileExt;

    /// Enough to hit every kind of table; some would crash a loader.
    const DAMAGED: u32 = 200;

    /// A pseudorandom generator (SplitMix64) with a fixed seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % bound
        }
    }

    let plugins = Plugins::new();
    let name = unique("mutant");
    let folder = plugins.add(&name, "faulty").write();
    let file = folder.join(library_file_name("faulty"));
    let library = fs::OpenOptions::new().read(true).write(true).open(&file);
    let library = library.expect("a library");
    let length = library.metadata().expect("a length").len();
    let host = host(&plugins);
    let mut random = Random(42);
    for number in 0..DAMAGED {
        // Hits headers and tables at the front more often.
        let within = if number % 2 == 0 { 64 << 10 } else { length };
        let places: Vec<_> = (0..=random.below(8)).map(|_| random.below(within)).collect();
        let mut before = Vec::new();
        for place in places {
            let mut byte = [0];
            library.read_exact_at(&mut byte, place).expect("a byte");
            before.push((place, byte));
            let other = byte[0] ^ (1 << random.below(8));
            library.write_all_at(&[other], place).expect("the library can be written");
        }
        // Two flips of one bit would cancel out.
        let now = before.iter().map(|(place, _)| place);
        let unique: std::collections::HashSet<_> = now.collect();
        if unique.len() == before.len() {
            let error = refused(&host, &folder);
            let message = error.full_message();
            let expected = (ErrorKind::Integrity, Some(LoadStep::Digest));
            assert_eq!((error.kind(), error.step()), expected, "mutant {number}: {message}");
        }
        for (place, byte) in before.into_iter().rev() {
            library.write_all_at(&byte, place).expect("the library can be written");
        }
    }
    assert_eq!(mappings(&name), 0);
    // The original loads.
    loaded(&host, &folder);
}
