//! Errors of the macros: one for each mistake, at its place.

use std::collections::BTreeSet;
use std::path::Path;

use hotbay_tests::{cargo, messages};

/// Folder for builds that only these tests use.
const FOLDER: &str = "mistakes";

/// An error: the line and the column of its place, and its message.
type Found = BTreeSet<(usize, usize, String)>;

/// Returns the errors that the comments of a file expect: `//~^ COLUMN MESSAGE`, with a `^` for each
/// line upward.
fn expected(source: &str) -> Found {
    let mut expected = Found::new();
    for (index, line) in source.lines().enumerate() {
        let Some((_, comment)) = line.split_once("//~") else { continue };
        let message = comment.trim_start_matches('^');
        let up = comment.len() - message.len();
        let (column, message) = message.trim().split_once(' ').expect("column and message");
        let column = column.parse().expect("a column");
        expected.insert((index + 1 - up, column, message.to_owned()));
    }
    expected
}

/// Returns the errors that the compiler prints about the file that the feature enables.
fn errors(feature: &str) -> Found {
    let arguments = ["check", "--package", "invalid-contracts", "--features", feature];
    let built = cargo(None, FOLDER, &arguments);
    assert_eq!(built.code(), Some(101), "{}", built.stderr);
    let errors = messages(&built).filter(|message| message["message"]["level"] == "error");
    let errors = errors.filter_map(|message| {
        let spans = message["message"]["spans"].as_array()?;
        let primary = spans.iter().find(|span| span["is_primary"] == true)?;
        let file = primary["file_name"].as_str()?;
        let place = |field: &str| primary[field].as_u64().map(|number| number as usize);
        let text = message["message"]["message"].as_str()?;
        let text = text.lines().next()?.to_owned();
        if Path::new(file).file_stem()? != feature {
            return Some((0, 0, format!("{file}: {text}")));
        }
        Some((place("line_start")?, place("column_start")?, text))
    });
    errors.collect()
}

#[track_caller]
fn check(feature: &str) {
    let file = format!("fixtures/invalid-contracts/src/{feature}.rs");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let source = std::fs::read_to_string(file).expect("a fixture");
    let (expected, found) = (expected(&source), errors(feature));
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}, found: {surplus:#?}");
}

#[test]
fn mistakes_are_errors_at_their_place() {
    check("macros");
}

#[test]
fn types_that_cannot_cross_are_errors_at_their_place() {
    check("types");
}

#[test]
fn async_method_is_not_served_without_the_feature_tokio() {
    let package = ["rustc", "--package", "invalid-contracts", "--features", "tasks"];
    let built = cargo(None, FOLDER, &[&package[..], &["--crate-type", "cdylib"]].concat());
    assert_eq!(built.code(), Some(101), "{}", built.stderr);
    let errors = messages(&built).filter(|message| message["message"]["level"] == "error");
    let texts: Vec<_> = errors.map(|error| error["message"]["message"].clone()).collect();
    let expected = "a contract with an `async fn` is served with the feature `tokio` of \
                    `hotbay-plugin`, on Unix";
    let is_expected =
        |text: &&serde_json::Value| text.as_str().is_some_and(|t| t.contains(expected));
    assert_eq!(texts.iter().find(is_expected), texts.first(), "{texts:#?}");
    assert!(!texts.is_empty());
}
