//! The example in `PROTOCOL.md` does what the page says.

use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Program, TOKEN};

/// The first block of Python on the page.
fn example() -> &'static str {
    let page = include_str!("../../PROTOCOL.md");
    let (_, after) = page.split_once("```python\n").expect("a block of Python");
    after.split_once("```").expect("its end").0
}

#[allow(clippy::disallowed_methods, reason = "tests start the program")]
fn python(arguments: &[&str]) -> Option<Command> {
    let is_there = Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok();
    let mut command = Command::new("python3");
    command.args(["-c", example()]).args(arguments);
    is_there.then_some(command)
}

#[test]
fn the_example_in_python_is_a_plugin() {
    let Some(mut capabilities) = python(&["capabilities"]) else { return };
    let output = capabilities.output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["hotbay"]["protocol"], &told["hotbay"]["name"]),
        (&1.into(), &"upper".into())
    );
    let folder = TempDir::new().unwrap();
    let mut command = python(&[]).unwrap();
    command.env("HOTBAY_CONFIG", "{}").env("HOTBAY_TOKEN", TOKEN);
    command.env("HOTBAY_SOCKET_DIR", folder.path());
    let mut program = Program::of(command, folder);
    program.read_location();
    let mut client = program.connect().unwrap();
    assert_eq!(client.ask("GET", "/healthz", &[], "").unwrap().status, 200);
    assert_eq!(client.ask("POST", "/execute", &[], "hello").unwrap().body, "HELLO");
    assert_eq!(client.ask("POST", "/none", &[], "").unwrap().status, 404);
    let wrong = client.ask("POST", "/execute", &[("Hotbay-Token", "x")], "hello").unwrap();
    assert_eq!(wrong.status, 401);
    assert_eq!(program.ask("GET", "/shutdown", "").status, 200);
    assert_eq!(program.ended().code(), Some(0), "{}", program.errors());
    assert!(program.files().is_empty());
}
