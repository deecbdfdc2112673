//! Programs in Go, built once for each test process. Go's cache is in the target folder, so that later
//! builds are fast and nothing is left in the home folder.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Returns the variables with which tests run `go`: it uses no network, and has its own cache.
///
/// # Panics
///
/// Panics if the test has no target folder.
pub fn go_environment() -> Vec<(&'static str, OsString)> {
    let test = env::current_exe().expect("a test has a file");
    let target = test.ancestors().nth(3).expect("it is in `target/PROFILE/deps`");
    vec![
        ("GOCACHE", target.join("go-cache").into()),
        ("GOPATH", target.join("go-path").into()),
        ("GOENV", "off".into()),
        ("GOFLAGS", "".into()),
        ("GOPROXY", "off".into()),
        ("GOTOOLCHAIN", "local".into()),
    ]
}

/// Returns the bytes of a program with the SDK in Go: `sdk` or `relay`, in `it/contracts/sdk-go`.
///
/// # Panics
///
/// Panics with the output of `go` if the build fails.
pub fn go_program(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<HashMap<&str, Vec<u8>>> = OnceLock::new();
    BUILT.get_or_init(build)[name].clone()
}

#[allow(clippy::disallowed_methods, reason = "these programs are not written in Rust")]
fn build() -> HashMap<&'static str, Vec<u8>> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/contracts/sdk-go");
    let out = tempfile::tempdir().expect("a temporary folder can be created");
    let mut go = Command::new("go");
    go.args(["build", "-buildvcs=false", "-o"]).arg(out.path()).args(["./sdk", "./relay"]);
    let output = go.current_dir(sources).envs(go_environment()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot start go: {error}"));
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go build failed: {reason}");
    let read = |name| fs::read(out.path().join(name)).expect("go has built the program");
    ["sdk", "relay"].map(|name| (name, read(name))).into()
}
