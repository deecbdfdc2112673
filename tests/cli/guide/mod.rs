//! The guide in `docs/`: its console blocks are run as a reader would type them, and every other block
//! is parsed, or compiled by the package `hotbay-guide`.

mod blocks;
mod session;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use blocks::{Block, blocks};
use hotbay::{ConfigFile, Manifest};
use hotbay_tests::has_interpreter;
use serde_json::Value;
use session::Session;
use tempfile::TempDir;

/// Commands in `sh` blocks, which are not run: they compile for minutes, or install something. Those
/// that call `hotbay` are run by the chapter about the first steps.
const NOT_RUN: &[&str] = &[
    "cargo xtask demo",
    "cargo xtask test",
    "cargo install --locked --path host/cli",
    "cd ..",
    "hotbay new greet",
    "hotbay build greet",
    "hotbay call greet --text you",
    "cargo install --locked --path hotbay/host/cli",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The README and the chapters in `docs/src`: path, name and text.
fn chapters() -> Vec<(String, String, String)> {
    let files = fs::read_dir(root().join("docs/src")).unwrap().map(|entry| entry.unwrap().path());
    let chapters = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let chapter = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), name, text)
    };
    chapters.chain([root().join("README.md")]).map(chapter).collect()
}

fn chapter(name: &str) -> Vec<Block> {
    let path = root().join(format!("docs/src/{name}.md"));
    blocks(&fs::read_to_string(path).unwrap())
}

/// Checks that each block is checked by something, and parses the data.
#[test]
fn each_block_of_the_guide_is_checked() {
    let compiled = fs::read_to_string(root().join("tests/guide/src/lib.rs")).unwrap();
    let mut not_run = BTreeSet::new();
    for (path, name, text) in chapters() {
        for block in blocks(&text) {
            let at = format!("{path}:{}", block.line);
            match block.language.as_str() {
                "rust" | "rust,no_run" => {
                    let is_compiled = compiled.contains(&format!("\"{path}\""));
                    assert!(is_compiled, "{at}: {path} is not in tests/guide");
                }
                "json" => check_json(&at, &block.text),
                "toml" => check_toml(&at, &block.text),
                "console" => assert!(SESSIONS.contains(&name.as_str()), "{at}: is not run"),
                "python" | "js" => {
                    assert!(block.file.is_some(), "{at}: is not a file of a session");
                    assert!(SESSIONS.contains(&name.as_str()), "{at}: is not run");
                }
                "sh" => {
                    for line in block.text.lines() {
                        let line = line.split(" # ").next().unwrap_or_default().trim();
                        assert!(NOT_RUN.contains(&line), "{at}: make `{line}` a console block");
                        not_run.insert(line.to_owned());
                    }
                }
                "text" => assert!(!block.text.starts_with("$ "), "{at}: is a console block"),
                other => panic!("{at}: nothing checks the language {other:?}"),
            }
        }
    }
    let unused: Vec<_> = NOT_RUN.iter().filter(|line| !not_run.contains(**line)).collect();
    assert!(unused.is_empty(), "remove {unused:?}");
}

fn check_json(at: &str, text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{at}: {error}"));
    if value.get("api").is_some() {
        Manifest::parse(text, at.as_ref()).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
}

/// A table of cargo is parsed; everything else is a `hotbay.toml`.
fn check_toml(at: &str, text: &str) {
    let table = toml_edit::Document::parse(text).unwrap_or_else(|error| panic!("{at}: {error}"));
    let of_cargo = ["package", "dependencies", "features", "lib", "profile"];
    if of_cargo.iter().any(|key| table.contains_key(key)) {
        return;
    }
    let folder = TempDir::with_prefix("hotbay-tests-").unwrap();
    let file = folder.path().join("hotbay.toml");
    fs::write(&file, text).unwrap();
    let read = ConfigFile::read(&file);
    read.unwrap_or_else(|error| panic!("{at}: {}", error.full_message()));
}

/// Declares a test for each chapter with console blocks.
macro_rules! sessions {
    ($($test:ident: $name:literal;)*) => {
        const SESSIONS: &[&str] = &[$($name),*];
        $(
            #[test]
            fn $test() {
                let blocks = chapter($name);
                let needs = [("js", "node"), ("python", "python3")];
                let has_all = needs.iter().all(|(language, program)| {
                    !blocks.iter().any(|block| block.language == *language)
                        || has_interpreter(program)
                });
                if has_all {
                    Session::new($name).run(&blocks);
                }
            }
        )*
    };
}

sessions! {
    calls_on_the_command_line_work_as_shown: "applications";
    configuration_and_reloads_work_as_shown: "operators";
    getting_started_works_as_shown: "getting-started";
    programs_in_other_languages_work_as_shown: "languages";
    programs_work_as_shown: "processes";
    refusals_and_permissions_are_as_shown: "security";
    tests_work_as_shown: "testing";
}
