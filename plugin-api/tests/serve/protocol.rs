//! Runs the example in `PROTOCOL.md`.

use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Program, TOKEN};

/// Returns the first Python block of the document.
fn example() -> &'static str {
    let page = include_str!("../../PROTOCOL.md");
    let (_, after) = page.split_once("```python\n").expect("Python block");
    after.split_once("```").expect("end of the block").0
}

#[allow(clippy::disallowed_methods, reason = "tests start the program")]
fn python(arguments: &[&str]) -> Option<Command> {
    let is_installed =
        Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok();
    let mut command = Command::new("python3");
    command.args(["-c", example()]).args(arguments);
    is_installed.then_some(command)
}

#[test]
fn python_example_follows_the_protocol() {
    let Some(mut capabilities) = python(&["capabilities"]) else { return };
    let output = capabilities.output().unwrap();
    let reported: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&reported["hotbay"]["protocol"], &reported["hotbay"]["name"]),
        (&1.into(), &"upper".into())
    );
    let folder = TempDir::new().unwrap();
    let mut command = python(&[]).unwrap();
    command.env("HOTBAY_CONFIG", "{}").env("HOTBAY_TOKEN", TOKEN);
    command.env("HOTBAY_SOCKET_DIR", folder.path());
    let mut program = Program::of(command, folder);
    program.read_location();
    let mut client = program.connect().unwrap();
    assert_eq!(client.request("GET", "/healthz", &[], "").unwrap().status, 200);
    assert_eq!(client.request("POST", "/execute", &[], "hello").unwrap().body, "HELLO");
    let error = client.request("POST", "/execute", &[], b"a\xff").unwrap();
    assert_eq!((error.status, &error.json()["code"]), (422, &400.into()));
    assert_eq!(error.json()["message"], "invalid UTF-8 at byte 1");
    assert_eq!(client.request("POST", "/none", &[], "").unwrap().status, 404);
    let invalid = client.request("POST", "/execute", &[("Hotbay-Token", "x")], "hello").unwrap();
    assert_eq!(invalid.status, 401);
    assert_eq!(program.request("GET", "/shutdown", "").status, 200);
    assert_eq!(program.wait_for_exit().code(), Some(0), "{}", program.errors());
    assert!(program.files().is_empty());
}
