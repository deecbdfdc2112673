//! Mistakes in manifests, as reported by a load: with file, line, column and field. The parser's
//! unit tests check each message.

use std::error::Error as _;

use hotbay::{ErrorKind, LoadStep, ManifestError};
use hotbay_tests::{Plugins, block_on, host, refused};

/// Checks a manifest in which `^` marks the position of the mistake.
#[track_caller]
fn check(manifest: &str, path: &str, expected: &[&str]) {
    let before = manifest.split('^').next().expect("a first part");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    let manifest = manifest.replacen('^', "", 1);

    let plugins = Plugins::new();
    let folder = plugins.add("wrong", "faulty").write_with_manifest(&manifest);
    let error = refused(&host(&plugins), &folder);
    let message = format!("{error:?}");
    let step = (error.kind(), error.step());
    assert_eq!(step, (ErrorKind::Manifest, Some(LoadStep::Manifest)), "{message}");
    let source = error.source().expect("a source");
    let mistake: &ManifestError = source.downcast_ref().expect("a mistake in a manifest");
    let place = (mistake.line(), mistake.column(), mistake.path());
    assert_eq!(place, (Some(line), Some(column), path), "{message}");
    let file = folder.join("plugin.json");
    let place = format!("{}:{line}:{column}:", file.display());
    for part in expected.iter().copied().chain([place.as_str()]) {
        assert!(message.contains(part), "`{part}` in: {message}");
    }
}

#[test]
fn misspelled_field_gets_suggestion() {
    let manifest = r#"{
  "name": "wrong", "version": "0.1.0", "api": "1",
  ^"libary": "faulty"
}"#;
    check(manifest, "libary", &["did you mean `library`?"]);
}

#[test]
fn invalid_values_are_reported_at_their_position() {
    let manifest = r#"{ "name": "wrong", "version": ^7, "api": "1" }"#;
    check(manifest, "version", &["7", "expected"]);
    let manifest = r#"{ "name": "wrong", "version": ^"one", "api": "1" }"#;
    check(manifest, "version", &["one"]);
    let manifest = "{\n\t\"name\": ^\"Wrong One\", \"version\": \"0.1.0\", \"api\": \"1\"\n}";
    check(manifest, "name", &["Wrong One"]);
}

#[test]
fn missing_or_duplicate_field_is_reported() {
    check(r#"^{ "name": "wrong", "version": "0.1.0" }"#, "api", &["is missing"]);
    let manifest = r#"{ "name": "wrong", "version": "0.1.0", "api": "1",
  ^"name": "right" }"#;
    check(manifest, "name", &["is set twice, on lines 1 and 2"]);
}

#[test]
fn nested_mistake_is_reported_with_path() {
    let manifest = r#"{ "name": "wrong", "version": "0.1.0", "api": "1",
  "limits": { "workers": ^-3 } }"#;
    check(manifest, "limits.workers", &["-3"]);
}

#[test]
fn invalid_json_is_reported_at_its_position() {
    let plugins = Plugins::new();
    let wrong = plugins.add("wrong", "faulty");
    let folder = wrong.write_with_manifest("{ \"name\": \"wrong\", \n  oops }");
    let error = refused(&host(&plugins), folder);
    let message = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Manifest);
    assert!(message.contains("plugin.json:2:3:") && message.contains("is not JSON"), "{message}");
}

#[test]
fn bad_manifest_does_not_block_other_plugins() {
    let plugins = Plugins::new();
    plugins.add("good", "faulty").write();
    plugins.add("bad", "faulty").write_with_manifest("{}");
    let host = host(&plugins);
    let report = block_on(host.load_all());
    let loaded: Vec<_> = report.loaded.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(loaded, ["good"]);
    assert!(!report.is_clean());
    let refused = &report.refused[0];
    assert_eq!((refused.error.kind(), &refused.name), (ErrorKind::Manifest, &None));
    assert!(refused.folder.ends_with("bad"));
    // Serving plugins are not loaded again; refused ones are tried again.
    let report = block_on(host.load_all());
    assert_eq!((report.loaded.len(), report.refused.len()), (0, 1));
}
