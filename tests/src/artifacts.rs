//! Builds the libraries and programs that tests load or run. Each package is built once per
//! process, in its own cargo call, so that features do not leak from one package into another.

use std::collections::HashMap;
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;

/// Builds the library of a workspace package, once per process, and returns its path.
///
/// # Panics
///
/// Panics with cargo's output if the build fails.
pub fn library(package: &str) -> PathBuf {
    build_once(&BuildRequest::library(package)).file.clone()
}

/// Builds a binary of a workspace package, once per process, and returns its path.
///
/// # Panics
///
/// Panics with cargo's output if the build fails.
pub fn binary(package: &str, bin: &str) -> PathBuf {
    let request = BuildRequest { package: package.to_owned(), bin: Some(bin.to_owned()) };
    build_once(&request).file.clone()
}

/// Builds the program that runs isolated libraries, once per process, and returns its path. Hosts of
/// tests find it beside the folder of the test.
///
/// # Panics
///
/// Panics with cargo's output if the build fails.
pub fn runner() -> PathBuf {
    binary("hotbay-runner", "hotbay-runner")
}

/// Builds the library of a package and returns its bytes, read once: later builds do not change
/// them during a test.
pub(crate) fn library_bytes(package: &str) -> Arc<Built> {
    build_once(&BuildRequest::library(package))
}

/// The result of a build.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) file: PathBuf,
    pub(crate) version: String,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct BuildRequest {
    package: String,
    bin: Option<String>,
}

impl BuildRequest {
    fn library(package: &str) -> Self {
        Self { package: package.to_owned(), bin: None }
    }

    fn target_kind(&self) -> &'static str {
        if self.bin.is_some() { "bin" } else { "cdylib" }
    }
}

type Once = Arc<OnceLock<Arc<Built>>>;

fn build_once(request: &BuildRequest) -> Arc<Built> {
    static ALL: OnceLock<Mutex<HashMap<BuildRequest, Once>>> = OnceLock::new();
    let once = ALL
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(request.clone())
        .or_default()
        .clone();
    once.get_or_init(|| Arc::new(build(request))).clone()
}

fn build(request: &BuildRequest) -> Built {
    let messages = run_cargo(request);
    let artifact = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|message| matches(message, request))
        .unwrap_or_else(|| {
            panic!("cargo reported no {} of `{}`", request.target_kind(), request.package)
        });
    let file = file_of(&artifact, request);
    let bytes = match request.bin {
        Some(_) => Vec::new(),
        None => std::fs::read(&file)
            .unwrap_or_else(|error| panic!("cannot read `{}`: {error}", file.display())),
    };
    Built { version: version_of(&artifact), file, bytes }
}

#[allow(clippy::disallowed_methods, reason = "tests build their fixtures with cargo")]
fn run_cargo(request: &BuildRequest) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    cargo.args(["build", "--message-format=json", "--package", &request.package]);
    match &request.bin {
        Some(bin) => cargo.args(["--bin", bin]),
        None => cargo.arg("--lib"),
    };
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_this_package(name)) {
        cargo.env_remove(name);
    }
    let output = cargo.output().unwrap_or_else(|error| panic!("cannot start cargo: {error}"));
    assert!(
        output.status.success(),
        "`{}` failed to build:\n{}",
        request.package,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns whether `cargo test` sets this variable for the package under test. Passing it on would
/// make build scripts run again.
pub(crate) fn is_of_this_package(variable: &OsStr) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    let variable = variable.to_string_lossy();
    PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

fn matches(message: &Value, request: &BuildRequest) -> bool {
    let target = &message["target"];
    let right_name = match &request.bin {
        Some(bin) => target["name"] == bin.as_str(),
        None => target["name"] == request.package.replace('-', "_").as_str(),
    };
    let right_kind = target["kind"]
        .as_array()
        .is_some_and(|kinds| kinds.iter().any(|kind| kind == request.target_kind()));
    message["reason"] == "compiler-artifact" && right_name && right_kind
}

fn file_of(artifact: &Value, request: &BuildRequest) -> PathBuf {
    let file = match request.bin {
        Some(_) => artifact["executable"].as_str(),
        None => artifact["filenames"].as_array().and_then(|files| {
            let mut files = files.iter().filter_map(Value::as_str);
            files.find(|file| file.ends_with(env::consts::DLL_SUFFIX))
        }),
    };
    PathBuf::from(file.unwrap_or_else(|| panic!("cargo named no file: {artifact}")))
}

/// Returns the version in a package ID: `…#name@1.2.3`, or `…#1.2.3` if the folder has the
/// package's name.
fn version_of(artifact: &Value) -> String {
    let id = artifact["package_id"].as_str().unwrap_or_default();
    let after = id.rsplit(['#', '@']).next();
    after.unwrap_or_default().to_owned()
}
