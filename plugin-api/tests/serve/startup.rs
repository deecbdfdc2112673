//! Tests the start of a program, and the files that a failed start leaves.

use std::fs;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Start, wait_until};

/// An id that no process has.
const DEAD_PID: &str = "2147483647";

fn in_temp_dir() -> Start {
    Start { in_temp_dir: true, ..Start::default() }
}

#[track_caller]
fn check_start_fails(start: Start, folder: TempDir, remaining_files: usize, expected: &[&str]) {
    let mut program = start.spawn(folder);
    assert_eq!(program.wait_for_exit().code(), Some(1));
    let errors = program.errors();
    let line: Value = serde_json::from_str(errors.trim()).unwrap();
    assert_eq!(line["level"], "error");
    for part in expected {
        assert!(errors.contains(part), "{errors}");
    }
    assert_eq!(program.files().len(), remaining_files, "{:?}", program.files());
}

#[test]
fn failed_start_reports_the_error_and_leaves_no_files() {
    for (config, expected) in [
        (json!({ "init_fails": "no table" }), ["`init` failed: no table", r#""code":17"#]),
        (json!({ "init_panics": "ouch" }), ["`init` panicked: ouch", r#""location""#]),
        (json!({ "config_fails": "odd" }), ["`validate_config` failed: odd", r#""code":17"#]),
        (json!({ "unknown": 1 }), ["`validate_config` failed: invalid config: ", "unknown field"]),
    ] {
        check_start_fails(Start::with(config), TempDir::new().unwrap(), 0, &expected);
    }
}

#[test]
fn signal_ends_hanging_start_and_leaves_no_files() {
    let files = TempDir::new().unwrap();
    let [started, never] = ["started", "never"].map(|name| files.path().join(name));
    let start = Start::with(json!({ "init_creates": started, "init_waits_for": never }));
    let mut program = start.spawn(TempDir::new().unwrap());
    wait_until("the plugin starts", || started.exists());
    assert_eq!(program.files().len(), 2, "a socket and its lock");
    program.signal(Signal::TERM);
    assert_eq!(program.wait_for_exit().code(), Some(1));
    assert!(
        program
            .errors()
            .contains("the program was stopped by a signal while the plugin was starting")
    );
    assert!(program.files().is_empty());
}

#[test]
fn files_of_a_dead_process_are_replaced() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("fixture-plugin.socket");
    drop(UnixListener::bind(&socket).unwrap());
    fs::write(folder.path().join("fixture-plugin.socket.lock"), DEAD_PID).unwrap();
    let mut program = in_temp_dir().spawn(folder);
    program.read_location();
    assert_eq!(program.location(), format!("http+unix://{}", socket.display()));
    assert_eq!(program.request("POST", "/execute", "hello").body, "hello");
    program.signal(Signal::TERM);
    assert!(program.wait_for_exit().success());
    assert!(program.files().is_empty());
}

#[test]
fn socket_without_lock_or_in_use_is_kept() {
    let folder = TempDir::new().unwrap();
    let _listener = UnixListener::bind(folder.path().join("fixture-plugin.socket")).unwrap();
    check_start_fails(
        in_temp_dir(),
        folder,
        1,
        &["already exists without its lock", r#""hint":"remove it if"#],
    );
    let folder = TempDir::new().unwrap();
    let lock = folder.path().join("fixture-plugin.socket.lock");
    fs::write(&lock, std::process::id().to_string()).unwrap();
    check_start_fails(
        in_temp_dir(),
        folder,
        1,
        &["is in use by process", r#""hint":"stop that process"#],
    );
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("fixture-plugin.socket.lock"), "me").unwrap();
    check_start_fails(
        in_temp_dir(),
        folder,
        1,
        &["expected a process id, found `me`", r#""hint":"remove it and"#],
    );
}

#[test]
fn socket_allows_only_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let program = in_temp_dir().run();
    let path = program.location().strip_prefix("http+unix://").unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    let lock = fs::read_to_string(format!("{path}.lock")).unwrap();
    assert!(lock.bytes().all(|byte| byte.is_ascii_digit()), "{lock}");
}
