//! Builds what the tests load or run: each package once per process, in a cargo call of its own,
//! so that features do not leak from one into another. It does not say where cargo puts things.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;

/// Builds the library of a workspace package, once per process; answers with its file.
///
/// # Panics
///
/// When it does not build; the message is cargo's.
pub fn library(package: &str) -> PathBuf {
    built(&Wanted::library(package)).file.clone()
}

/// Builds a binary of a workspace package, once per process; answers with its file.
///
/// # Panics
///
/// When it does not build; the message is cargo's.
pub fn binary(package: &str, features: &[&str], bin: &str) -> PathBuf {
    let expected = Wanted {
        package: package.to_owned(),
        features: features.join(","),
        bin: Some(bin.to_owned()),
    };
    built(&expected).file.clone()
}

/// The library of a package, read once: a later build does not change it under a test.
pub(crate) fn library_bytes(package: &str) -> Arc<Built> {
    built(&Wanted::library(package))
}

/// What came of a build.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) file: PathBuf,
    pub(crate) version: String,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Wanted {
    package: String,
    features: String,
    bin: Option<String>,
}

impl Wanted {
    fn library(package: &str) -> Self {
        Self { package: package.to_owned(), features: String::new(), bin: None }
    }

    fn target_kind(&self) -> &'static str {
        if self.bin.is_some() { "bin" } else { "cdylib" }
    }
}

type Once = Arc<OnceLock<Arc<Built>>>;

fn built(expected: &Wanted) -> Arc<Built> {
    static ALL: OnceLock<Mutex<HashMap<Wanted, Once>>> = OnceLock::new();
    let once = ALL
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(expected.clone())
        .or_default()
        .clone();
    once.get_or_init(|| Arc::new(build(expected))).clone()
}

fn build(expected: &Wanted) -> Built {
    let messages = run_cargo(expected);
    let artifact = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|message| is_wanted(message, expected))
        .unwrap_or_else(|| {
            panic!("cargo told of no {} of `{}`", expected.target_kind(), expected.package)
        });
    let file = file_of(&artifact, expected);
    let bytes = match expected.bin {
        Some(_) => Vec::new(),
        None => std::fs::read(&file)
            .unwrap_or_else(|error| panic!("`{}` cannot be read: {error}", file.display())),
    };
    Built { version: version_of(&artifact), file, bytes }
}

#[allow(clippy::disallowed_methods, reason = "tests build what they load with cargo")]
fn run_cargo(expected: &Wanted) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    cargo.args(["build", "--message-format=json", "--package", &expected.package]);
    match &expected.bin {
        Some(bin) => cargo.args(["--bin", bin]),
        None => cargo.arg("--lib"),
    };
    if !expected.features.is_empty() {
        cargo.args(["--features", &expected.features]);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_this_package(name)) {
        cargo.env_remove(name);
    }
    let output = cargo.output().unwrap_or_else(|error| panic!("cargo cannot be started: {error}"));
    assert!(
        output.status.success(),
        "`{}` does not build:\n{}",
        expected.package,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `cargo test` says about the package under test would make build scripts run again.
fn is_of_this_package(variable: &OsStr) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    let variable = variable.to_string_lossy();
    PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

fn is_wanted(message: &Value, expected: &Wanted) -> bool {
    let target = &message["target"];
    let right_name = match &expected.bin {
        Some(bin) => target["name"] == bin.as_str(),
        None => target["name"] == expected.package.replace('-', "_").as_str(),
    };
    let right_kind = target["kind"]
        .as_array()
        .is_some_and(|kinds| kinds.iter().any(|kind| kind == expected.target_kind()));
    message["reason"] == "compiler-artifact" && right_name && right_kind
}

fn file_of(artifact: &Value, expected: &Wanted) -> PathBuf {
    let file = match expected.bin {
        Some(_) => artifact["executable"].as_str(),
        None => artifact["filenames"].as_array().and_then(|files| {
            let mut files = files.iter().filter_map(Value::as_str);
            files.find(|file| file.ends_with(env::consts::DLL_SUFFIX))
        }),
    };
    PathBuf::from(file.unwrap_or_else(|| panic!("cargo named no file: {artifact}")))
}

/// A package id ends in `#name@1.2.3`, or in `#1.2.3` where the folder has the package's name.
fn version_of(artifact: &Value) -> String {
    let id = artifact["package_id"].as_str().unwrap_or_default();
    let after = id.rsplit(['#', '@']).next();
    after.unwrap_or_default().to_owned()
}
