//! Tests the end of a program: by signal, by request, or because it is idle.

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::program::{Program, Start, wait_until};

/// A running call, which waits until `finish` creates a file.
struct RunningCall {
    client: crate::program::Client,
    files: TempDir,
}

impl RunningCall {
    fn start(program: &Program) -> Self {
        let files = TempDir::new().unwrap();
        let started = files.path().join("started");
        let input = json!({ "do": "wait", "until": files.path().join("end"), "tells": started });
        let mut client = program.connect().unwrap();
        client.send("POST", "/execute", &[], &input.to_string()).unwrap();
        wait_until("the call runs", || started.exists());
        Self { client, files }
    }

    fn finish(mut self) -> String {
        fs::write(self.files.path().join("end"), "").unwrap();
        let response = self.client.receive().unwrap();
        assert_eq!(response.header("connection"), Some("close"));
        response.body
    }
}

#[track_caller]
fn check_running_call_finishes(stop: impl FnOnce(&Program)) {
    let files = TempDir::new().unwrap();
    let started = files.path().join("shutdown");
    let mut program = Start::with(json!({ "start": 5, "shutdown_tells": started })).run();
    let mut idle = program.connect().unwrap();
    assert_eq!(idle.request("GET", "/healthz", &[], "").unwrap().status, 200);
    let call = RunningCall::start(&program);
    stop(&program);
    wait_until("connections to be refused", || program.connect().is_err());
    wait_until("the idle connection to close", || idle.send("GET", "/healthz", &[], "").is_err());
    assert!(!started.exists(), "the plugin shut down during a call");
    assert_eq!(call.finish(), "came");
    assert_eq!(program.wait_for_exit().code(), Some(0), "{}", program.errors());
    assert_eq!(fs::read_to_string(&started).unwrap(), "5");
    assert_eq!(program.files(), Vec::<String>::new());
}

#[test]
fn signal_stops_program_after_running_calls() {
    check_running_call_finishes(|program| program.signal(Signal::TERM));
    check_running_call_finishes(|program| program.signal(Signal::INT));
}

#[test]
fn shutdown_request_stops_program_after_running_calls() {
    check_running_call_finishes(|program| {
        assert_eq!(program.request("GET", "/shutdown", "").status, 200)
    });
}

#[test]
fn failed_shutdown_is_reported_and_leaves_no_files() {
    let mut program = Start::with(json!({ "shutdown_panics": "ouch" })).run();
    program.signal(Signal::TERM);
    assert_eq!(program.wait_for_exit().code(), Some(1));
    assert!(program.errors().contains("`shutdown` panicked: ouch"), "{}", program.errors());
    assert!(program.files().is_empty());
}

#[test]
fn idle_program_exits() {
    for transport in ["unix", "tcp"] {
        let mut program = Start { idle: json!("1ms"), transport, ..Start::default() }.run();
        assert_eq!(program.wait_for_exit().code(), Some(0), "{}", program.errors());
        assert!(program.files().is_empty());
    }
}

#[test]
fn call_longer_than_idle_timeout_keeps_program_alive() {
    let files = TempDir::new().unwrap();
    let input = json!({ "do": "wait", "until": files.path().join("never") }).to_string();
    loop {
        // The program may exit before the call arrives; then try again with another one.
        let mut program = Start { idle: json!("50ms"), ..Start::default() }.run();
        let Ok(mut client) = program.connect() else { continue };
        let headers = [("Hotbay-Deadline-Ms", "400")];
        if client.send("POST", "/execute", &headers, &input).is_err() {
            continue;
        }
        assert_eq!(client.receive().unwrap().body, "cancelled");
        drop(client);
        assert_eq!(program.wait_for_exit().code(), Some(0));
        return;
    }
}

#[test]
fn request_sent_before_idle_exit_is_answered() {
    for round in 0..30 {
        let mut program = Start { idle: json!("2ms"), ..Start::default() }.run();
        let mut kept = None;
        let mut answered = 0;
        loop {
            // Alternates between new and kept connections.
            let client = kept.take().map_or_else(|| program.connect(), Ok);
            let Ok(mut client) = client else { break };
            if client.send("POST", "/execute", &[], "hello").is_err() {
                break;
            }
            let response = client.receive();
            let response =
                response.unwrap_or_else(|error| panic!("request lost in round {round}: {error}"));
            assert_eq!(response.body, "hello");
            answered += 1;
            if response.header("connection").is_none() && answered % 2 == 1 {
                kept = Some(client);
            }
            // Increases the pause until the program exits between two calls.
            let pause = std::time::Duration::from_micros(100 * answered);
            std::thread::park_timeout(pause);
        }
        assert_eq!(program.wait_for_exit().code(), Some(0), "{}", program.errors());
    }
}
