//! Programs that serve frames and break the protocol: each call fails with its reason, and the next
//! one is served.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use hotbay::{Error, ErrorKind, Host, HostBuilder, PluginHandle, Reply, Request};
use hotbay_tests::{Plugins, ProgramFolder, block_on, has_interpreter, limits, loaded, until};
use serde_json::{Value, json};

/// A short deadline for a reply that never comes.
const SOON: Duration = Duration::from_millis(100);

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// The program `frames.py`, loaded.
struct Liar {
    host: Host,
    handle: PluginHandle,
    journal: PathBuf,
    _plugins: Plugins,
}

impl Liar {
    /// Starts it; `None` without Python.
    fn start(behavior: Value) -> Option<Self> {
        Self::start_with(behavior, |program| program, |builder| builder)
    }

    fn start_with(
        mut behavior: Value,
        program: impl FnOnce(ProgramFolder) -> ProgramFolder,
        host: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> Option<Self> {
        if !has_interpreter("python3") {
            return None;
        }
        let plugins = Plugins::new();
        let journal = plugins.dir().join("journal");
        behavior["journal"] = json!(journal);
        let folder = ProgramFolder::new(plugins.dir(), "liar").bytes(include_str!("frames.py"));
        let folder = program(folder.behavior(behavior)).install();
        let host = host(Host::builder().quarantine(None)).build().expect("a host");
        let handle = loaded(&host, folder);
        Some(Self { host, handle, journal, _plugins: plugins })
    }

    /// Calls it by both call methods.
    fn call_both(&self, action: &Value, timeout: Duration) -> [Result<Reply, Error>; 2] {
        let text = action.to_string();
        let request = || Request::json_text(&text).with_timeout(timeout);
        [self.handle.call(request()), block_on(self.handle.execute(request()))]
    }

    /// Asserts that such calls fail, and that each has run this number of times.
    #[track_caller]
    fn fails(&self, action: &Value, runs: usize, kind: ErrorKind, expected: &str) {
        self.fails_within(NEVER, action, runs, kind, expected);
    }

    #[track_caller]
    fn fails_within(
        &self,
        timeout: Duration,
        action: &Value,
        runs: usize,
        kind: ErrorKind,
        expected: &str,
    ) {
        let line = format!("frame {}", action["do"].as_str().unwrap_or_default());
        let before = self.noted(&line);
        for outcome in self.call_both(action, timeout) {
            let error = outcome.expect_err(&action.to_string());
            let message = error.full_message();
            assert_eq!(error.kind(), kind, "{action}: {message}");
            assert!(message.contains(expected), "`{expected}` in: {message} ({action})");
        }
        assert_eq!(self.noted(&line) - before, 2 * runs, "{action}");
    }

    /// Asserts that it echoes by both call methods.
    #[track_caller]
    fn echoes(&self, input: &Value) {
        for outcome in self.call_both(input, NEVER) {
            let reply = outcome.unwrap_or_else(|error| panic!("{}", error.full_message()));
            assert_eq!(reply.as_text().unwrap(), input.to_string());
        }
    }

    /// Returns how often the program has noted this line.
    fn noted(&self, line: &str) -> usize {
        let text = fs::read_to_string(&self.journal).unwrap_or_default();
        text.lines().filter(|noted| *noted == line).count()
    }
}

#[test]
fn invalid_replies_are_rejected_with_their_reason() {
    let limit = json!({ "output_bytes": 100_000 });
    let limited = |program: ProgramFolder| program.set("limits", limit);
    let Some(liar) = Liar::start_with(json!({}), limited, |builder| builder) else { return };
    let bytes = |hex: &str, then: &str| json!({ "do": "bytes", "hex": hex, "then": then });
    let status = |status, kind: &str| json!({ "do": "status", "status": status, "type": kind });
    let (protocol, too_large) = (ErrorKind::Protocol, ErrorKind::InvalidOutput);
    for (action, kind, expected) in [
        (bytes("ffffffff", "wait"), too_large, "larger than 100000 bytes"),
        (json!({ "do": "large", "bytes": 100_001 }), too_large, "larger than 100000 bytes"),
        (bytes("00000000", "wait"), protocol, "invalid head"),
        (bytes("05000000ffffffffff", "wait"), protocol, "invalid head"),
        (bytes("0500", "close"), ErrorKind::Disconnected, "closed before the response arrived"),
        (json!({ "do": "close" }), ErrorKind::Disconnected, "may have run"),
        (json!({ "do": "twice" }), protocol, "more than one reply"),
        (status(0, "a/b"), protocol, "invalid status"),
        (status(204, "a/b"), protocol, "expected 200"),
        (status(200, "a\r\nb: c"), protocol, "invalid content type"),
    ] {
        liar.fails(&action, 1, kind, expected);
        liar.echoes(&json!("next"));
    }
    for action in [json!({ "do": "wait" }), bytes("0500", "wait")] {
        liar.fails_within(SOON, &action, 1, ErrorKind::DeadlineExceeded, "before the deadline");
        liar.echoes(&json!("next"));
    }
}

#[test]
fn unexpected_reply_answers_no_call() {
    let Some(liar) = Liar::start(json!({})) else { return };
    for nth in 1..=2 {
        // Each call method has its own connections.
        let gate = liar.journal.with_file_name(format!("gate {nth}"));
        let late = json!({ "do": "late", "gate": gate }).to_string();
        let request = || Request::json_text(&late).with_timeout(NEVER);
        let first = match nth {
            1 => liar.handle.call(request()),
            _ => block_on(liar.handle.execute(request())),
        };
        assert_eq!(first.unwrap().as_text().unwrap(), "\"first\"");
        fs::write(&gate, "").expect("a file");
        until("another reply was sent", || (liar.noted("late sent") == nth).then_some(()));
        (0..3).for_each(|number| liar.echoes(&json!(number)));
    }
    let Some(liar) = Liar::start(json!({ "upgrade": "reply first" })) else { return };
    let reason = "cannot upgrade a connection to `hotbay-frames/1`: invalid frame: a reply before";
    liar.fails(&json!("x"), 0, ErrorKind::Protocol, reason);
}

#[test]
fn connection_that_the_program_closed_is_not_used() {
    let Some(liar) = Liar::start(json!({})) else { return };
    for nth in 1..=3 {
        let close = Request::json_text(r#"{ "do": "close idle" }"#).with_timeout(NEVER);
        liar.handle.call(close).expect("a reply before it closes");
        until("it has closed", || (liar.noted("closed idle") == nth).then_some(()));
        liar.echoes(&json!(nth));
    }
}

#[test]
fn calls_over_tcp_are_http() {
    let tcp = |program: ProgramFolder| program.set("type", "tcp");
    let Some(liar) = Liar::start_with(json!({}), tcp, |builder| builder) else { return };
    liar.echoes(&json!("x"));
    assert_eq!((liar.noted("upgrade"), liar.noted("http")), (0, 2));
}

#[test]
fn program_with_one_connection_serves_frames() {
    let Some(liar) = Liar::start(json!({ "at_once": 1 })) else { return };
    liar.echoes(&json!("first"));
    thread::scope(|scope| {
        for caller in 0..4 {
            let liar = &liar;
            scope.spawn(move || (0..5).for_each(|nth| liar.echoes(&json!([caller, nth]))));
        }
    });
    assert!(liar.noted("upgrade") > 0);
}

#[test]
fn failed_upgrade_is_the_reason_of_the_call() {
    let check = |upgrade: &str, kind, expected: &str| {
        let Some(liar) = Liar::start(json!({ "upgrade": upgrade })) else { return };
        liar.fails(&json!("x"), 0, kind, "was not called");
        liar.fails(&json!("x"), 0, kind, "cannot upgrade a connection");
        liar.fails(&json!("x"), 0, kind, expected);
    };
    check("informational", ErrorKind::Protocol, "informational responses (1xx)");
    check("endless head", ErrorKind::Protocol, "invalid HTTP/1.1 response");
    check("nonsense", ErrorKind::Protocol, "invalid HTTP/1.1 response");
    check("plain HTTP", ErrorKind::Protocol, "a reply before the first request");
    let Some(liar) = Liar::start(json!({ "upgrade": "silent" })) else { return };
    let why = "before the deadline";
    liar.fails_within(SOON, &json!("x"), 0, ErrorKind::DeadlineExceeded, why);
    // It does not even read the request, which is larger than the socket's buffers.
    let Some(liar) = Liar::start(json!({ "upgrade": "accept and stop reading" })) else { return };
    let large = json!("x".repeat(900 << 10));
    liar.fails_within(SOON, &large, 0, ErrorKind::DeadlineExceeded, why);
}

#[test]
fn program_may_refuse_frames_after_a_restart() {
    let starts = json!(["accept", "refuse", "accept"]);
    let Some(liar) = Liar::start(json!({ "starts": starts })) else { return };
    for is_refused in [false, true, false] {
        let http = liar.noted("http");
        liar.echoes(&json!("x"));
        assert_eq!(liar.noted("http") - http, if is_refused { 2 } else { 0 });
        let pid = liar.host.list()[0].pid.expect("it runs");
        super::fixture::kill(pid);
        until("it has restarted", || liar.host.list()[0].pid.filter(|now| *now != pid));
    }
}

#[test]
fn unload_ends_calls_without_reply() {
    let soon = |builder: HostBuilder| builder.limits(limits(|limits| limits.drain_timeout = SOON));
    let Some(liar) = Liar::start_with(json!({}), |program| program, soon) else { return };
    let half = json!({ "do": "bytes", "hex": "0500", "then": "wait" });
    thread::scope(|scope| {
        let calls = [json!({ "do": "wait" }), half].map(|action| {
            let liar = &liar;
            scope.spawn(move || liar.call_both(&action, NEVER))
        });
        until("both run", || {
            (liar.noted("frame wait") + liar.noted("frame bytes") == 2).then_some(())
        });
        block_on(liar.host.unload("liar")).expect("the plugin unloads");
        for call in calls {
            for outcome in call.join().unwrap() {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Retired);
            }
        }
    });
}
