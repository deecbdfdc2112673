//! How a program ends: told to, or because nobody calls.

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::program::{Program, Start, until};

/// A call that runs until `end` makes the file that it waits for.
struct Waits {
    client: crate::program::Client,
    files: TempDir,
}

impl Waits {
    fn begin(program: &Program) -> Self {
        let files = TempDir::new().unwrap();
        let tells = files.path().join("tells");
        let ask = json!({ "do": "wait", "until": files.path().join("end"), "tells": tells });
        let mut client = program.connect().unwrap();
        client.send("POST", "/execute", &[], &ask.to_string()).unwrap();
        until("the call runs", || tells.exists());
        Self { client, files }
    }

    fn end(mut self) -> String {
        fs::write(self.files.path().join("end"), "").unwrap();
        let answer = self.client.receive().unwrap();
        assert_eq!(answer.header("connection"), Some("close"));
        answer.body
    }
}

#[track_caller]
fn check_finishes(stop: impl FnOnce(&Program)) {
    let files = TempDir::new().unwrap();
    let tells = files.path().join("shutdown");
    let mut program = Start::with(json!({ "start": 5, "shutdown_tells": tells })).run();
    let mut idle = program.connect().unwrap();
    assert_eq!(idle.ask("GET", "/healthz", &[], "").unwrap().status, 200);
    let waits = Waits::begin(&program);
    stop(&program);
    until("nobody comes in", || program.connect().is_err());
    until("the idle connection is closed", || idle.send("GET", "/healthz", &[], "").is_err());
    assert!(!tells.exists(), "nothing ends while a call runs");
    assert_eq!(waits.end(), "came");
    assert_eq!(program.ended().code(), Some(0), "{}", program.errors());
    assert_eq!(fs::read_to_string(&tells).unwrap(), "5");
    assert_eq!(program.files(), Vec::<String>::new());
}

#[test]
fn a_signal_ends_the_program_when_what_runs_has_finished() {
    check_finishes(|program| program.signal(Signal::TERM));
    check_finishes(|program| program.signal(Signal::INT));
}

#[test]
fn a_request_to_shut_down_ends_the_program_when_what_runs_has_finished() {
    check_finishes(|program| assert_eq!(program.ask("GET", "/shutdown", "").status, 200));
}

#[test]
fn a_program_that_fails_to_shut_down_says_so_and_leaves_nothing() {
    let mut program = Start::with(json!({ "shutdown_panics": "ouch" })).run();
    program.signal(Signal::TERM);
    assert_eq!(program.ended().code(), Some(1));
    assert!(program.errors().contains("`shutdown` panicked: ouch"), "{}", program.errors());
    assert!(program.files().is_empty());
}

#[test]
fn a_program_that_nobody_calls_ends_by_itself() {
    for way in ["unix", "tcp"] {
        let mut program = Start { idle: json!("1ms"), way, ..Start::default() }.run();
        assert_eq!(program.ended().code(), Some(0), "{}", program.errors());
        assert!(program.files().is_empty());
    }
}

#[test]
fn a_call_that_runs_longer_than_the_idle_time_keeps_the_program() {
    let files = TempDir::new().unwrap();
    let ask = json!({ "do": "wait", "until": files.path().join("never") }).to_string();
    loop {
        // It may be gone before the call comes; then the next one is asked.
        let mut program = Start { idle: json!("50ms"), ..Start::default() }.run();
        let Ok(mut client) = program.connect() else { continue };
        let headers = [("Hotbay-Deadline-Ms", "400")];
        if client.send("POST", "/execute", &headers, &ask).is_err() {
            continue;
        }
        assert_eq!(client.receive().unwrap().body, "cancelled");
        drop(client);
        assert_eq!(program.ended().code(), Some(0));
        return;
    }
}

#[test]
fn a_request_that_was_sent_before_an_idle_program_ends_is_answered() {
    for round in 0..30 {
        let mut program = Start { idle: json!("2ms"), ..Start::default() }.run();
        let mut kept = None;
        let mut answered = 0;
        loop {
            // New connections and kept ones by turns.
            let client = kept.take().map_or_else(|| program.connect(), Ok);
            let Ok(mut client) = client else { break };
            if client.send("POST", "/execute", &[], "hello").is_err() {
                break;
            }
            let answer = client.receive();
            let answer =
                answer.unwrap_or_else(|error| panic!("lost one in round {round}: {error}"));
            assert_eq!(answer.body, "hello");
            answered += 1;
            if answer.header("connection").is_none() && answered % 2 == 1 {
                kept = Some(client);
            }
            // More and more time between the calls, until the program leaves between two.
            let until_next = std::time::Duration::from_micros(100 * answered);
            std::thread::park_timeout(until_next);
        }
        assert_eq!(program.ended().code(), Some(0), "{}", program.errors());
    }
}
