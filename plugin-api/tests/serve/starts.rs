//! How a program starts, and what is left where it does not.

use std::fs;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Start, until};

/// No process has that id.
const DEAD: &str = "2147483647";

fn in_tmp() -> Start {
    Start { in_tmp: true, ..Start::default() }
}

#[track_caller]
fn check_refused(start: Start, folder: TempDir, left: usize, says: &[&str]) {
    let mut program = start.spawn(folder);
    assert_eq!(program.ended().code(), Some(1));
    let errors = program.errors();
    let line: Value = serde_json::from_str(errors.trim()).unwrap();
    assert_eq!(line["level"], "error");
    for part in says {
        assert!(errors.contains(part), "{errors}");
    }
    assert_eq!(program.files().len(), left, "{:?}", program.files());
}

#[test]
fn a_plugin_that_does_not_start_says_why_and_leaves_nothing() {
    for (config, says) in [
        (json!({ "init_fails": "no table" }), ["`init` failed: no table", r#""code":17"#]),
        (json!({ "init_panics": "ouch" }), ["`init` panicked: ouch", r#""location""#]),
        (json!({ "config_fails": "odd" }), ["`validate_config` failed: odd", r#""code":17"#]),
        (json!({ "unknown": 1 }), ["`validate_config` answered", "unknown field"]),
    ] {
        check_refused(Start::with(config), TempDir::new().unwrap(), 0, &says);
    }
}

#[test]
fn a_signal_ends_a_start_that_hangs_and_nothing_is_left() {
    let files = TempDir::new().unwrap();
    let [tells, never] = ["tells", "never"].map(|name| files.path().join(name));
    let start = Start::with(json!({ "init_tells": tells, "init_waits_for": never }));
    let mut program = start.spawn(TempDir::new().unwrap());
    until("the plugin starts", || tells.exists());
    assert_eq!(program.files().len(), 2, "a socket and its lock");
    program.signal(Signal::TERM);
    assert_eq!(program.ended().code(), Some(1));
    assert!(program.errors().contains("stopped by a signal while the plugin started"));
    assert!(program.files().is_empty());
}

#[test]
fn files_of_a_dead_process_are_in_nobodys_way() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("fixture-plugin.socket");
    drop(UnixListener::bind(&socket).unwrap());
    fs::write(folder.path().join("fixture-plugin.socket.lock"), DEAD).unwrap();
    let mut program = in_tmp().spawn(folder);
    program.read_location();
    assert_eq!(program.location(), format!("http+unix://{}", socket.display()));
    assert_eq!(program.ask("POST", "/execute", "hello").body, "hello");
    program.signal(Signal::TERM);
    assert!(program.ended().success());
    assert!(program.files().is_empty());
}

#[test]
fn a_socket_of_nobody_or_of_a_living_process_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let _listener = UnixListener::bind(folder.path().join("fixture-plugin.socket")).unwrap();
    check_refused(in_tmp(), folder, 1, &["already exists without its lock", "remove it"]);
    let folder = TempDir::new().unwrap();
    let lock = folder.path().join("fixture-plugin.socket.lock");
    fs::write(&lock, std::process::id().to_string()).unwrap();
    check_refused(in_tmp(), folder, 1, &["is in use by process"]);
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("fixture-plugin.socket.lock"), "me").unwrap();
    check_refused(in_tmp(), folder, 1, &["expected a process id, found `me`"]);
}

#[test]
fn only_this_user_may_connect() {
    use std::os::unix::fs::PermissionsExt;
    let program = in_tmp().run();
    let path = program.location().strip_prefix("http+unix://").unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    let lock = fs::read_to_string(format!("{path}.lock")).unwrap();
    assert!(lock.bytes().all(|byte| byte.is_ascii_digit()), "{lock}");
}
