//! Calls whose process exits during the call: which ones are repeated, which are not because they
//! may have run, and calls while processes are killed at random moments.

use std::env;
use std::fs;
use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, Host, HostEvent, Request};
use hotbay_tests::{
    Kills, LIMIT, Plugins, ProgramFolder, ResourceSnapshot, block_on, event, kill_often, loaded,
    run_in_subprocess, until,
};
use serde_json::{Value, json};

use super::fixture::{ProcessFixture, Running, kill};

fn start() -> Running {
    ProcessFixture::new().run_with(json!({}), |it| it, |builder| builder.quarantine(None))
}

fn count(running: &Running) -> Value {
    running.call_json(&json!({ "do": "count" }))
}

#[test]
fn call_that_may_have_run_is_not_repeated() {
    let running = start();
    for (round, call_async) in [false, true].into_iter().enumerate() {
        let mut events = running.host.events();
        let action = json!({ "do": "exit", "code": 3 }).to_string();
        let error = match call_async {
            false => running.handle.call(Request::json_text(&action)),
            true => block_on(running.handle.execute(Request::json_text(&action))),
        };
        let error = error.unwrap_err();
        let message = error.full_message();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{message}");
        assert!(message.contains("may have run"), "{message}");
        event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
        assert_eq!(running.fixture.started().len(), round + 2);
        assert_eq!(count(&running), 1, "the next process saw no call but this one");
    }
    running.end();
}

#[test]
fn idempotent_call_is_answered_by_next_process() {
    let running = start();
    let file = |name: &str| running.fixture.file(name);
    for call_async in [false, true] {
        let (until_file, began) =
            (file(&format!("u{call_async}")), file(&format!("b{call_async}")));
        let action = json!({ "do": "wait", "until": until_file, "began": began }).to_string();
        let request = Request::json_text(&action).with_idempotent(true);
        let reply = thread::scope(|scope| {
            let calling = scope.spawn(|| match call_async {
                false => running.handle.call(request),
                true => block_on(running.handle.execute(request)),
            });
            until("the call starts", || began.exists().then_some(()));
            std::fs::write(&until_file, "").unwrap();
            calling.join().unwrap()
        });
        assert_eq!(reply.unwrap().as_bytes(), b"\"until\"");

        let (until_file, began) =
            (file(&format!("v{call_async}")), file(&format!("c{call_async}")));
        let action = json!({ "do": "wait", "until": until_file, "began": began }).to_string();
        let request = Request::json_text(&action).with_idempotent(true);
        let reply = thread::scope(|scope| {
            let calling = scope.spawn(|| match call_async {
                false => running.handle.call(request),
                true => block_on(running.handle.execute(request)),
            });
            until("the call starts", || began.exists().then_some(()));
            kill(running.pid());
            std::fs::remove_file(&began).unwrap();
            until("the call starts again", || began.exists().then_some(()));
            std::fs::write(&until_file, "").unwrap();
            calling.join().unwrap()
        });
        let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
        assert_eq!(reply.as_bytes(), b"\"until\"");
    }
    assert_eq!(running.fixture.started().len(), 3);
    running.end();
}

#[test]
fn idempotent_call_that_kills_every_process_fails() {
    let running = start();
    let action = json!({ "do": "signal", "signal": 9 }).to_string();
    let mut events = running.host.events();
    let error = running.handle.call(Request::json_text(&action).with_idempotent(true)).unwrap_err();
    let message = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{message}");
    // On a busy machine some attempts may meet no process at all, which does not count.
    let attempts = message.split_once(" attempts)").map_or("", |(before, _)| before);
    let attempts: u32 = attempts.rsplit('(').next().unwrap_or("").parse().expect(&message);
    assert!(attempts >= 5, "{message}");
    event(&mut events, |event| matches!(event, HostEvent::Restarted { .. }));
    running.serves();
    // An attempt may meet a process that is already exiting, so two may share one exit.
    let exits = running.host.list()[0].stats.exits;
    assert!((1..=5).contains(&exits), "{exits}");
    running.end();
}

#[test]
fn call_that_did_not_run_is_repeated_after_process_death() {
    let running = start();
    for round in 1..=6 {
        // Keeps connections of both call methods.
        running.serves();
        kill(running.pid());
        let reply = match round % 2 {
            0 => running.handle.call(Request::text("again")),
            _ => block_on(running.handle.execute(Request::text("again"))),
        };
        match reply {
            Ok(reply) => assert_eq!(reply.as_bytes(), b"again"),
            Err(error) => panic!("round {round}: {}", error.full_message()),
        }
        assert_eq!(running.fixture.started().len(), round + 1);
    }
    running.end();
}

#[test]
fn closed_kept_connection_is_retried_if_idempotent() {
    let behavior = json!({ "serve": { "close_after_calls": 1 } });
    let running = ProcessFixture::new().run(behavior);
    for _ in 0..30 {
        let request = || Request::text("x").with_idempotent(true);
        let replies = [running.handle.call(request()), block_on(running.handle.execute(request()))];
        for reply in replies {
            assert_eq!(
                reply.unwrap_or_else(|error| panic!("{}", error.full_message())).as_bytes(),
                b"x"
            );
        }
    }
    assert_eq!(running.fixture.started().len(), 1);
    running.end();
}

#[test]
fn missing_socket_is_reported_as_call_not_sent() {
    let running = ProcessFixture::new().run(json!({ "serve": { "close_after_calls": 1 } }));
    // Idempotent, in case a kept connection is just being closed.
    let unlink = Request::json_text(r#"{"do":"unlink"}"#).with_idempotent(true);
    running.handle.call(unlink).unwrap();
    let request = Request::text("not received").with_idempotent(true);
    let error = block_on(running.handle.execute(request)).unwrap_err();
    let message = error.full_message();
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{message}");
    assert!(message.contains("was not called") && message.contains(".socket"), "{message}");
    running.end();
}

#[test]
fn deadline_passing_during_process_start_times_out() {
    let fixture = ProcessFixture::new();
    let go = fixture.file("go");
    let behavior = json!({ "launches": [{}, { "location": { "until": go } }] });
    let running = fixture.run_with(behavior, |it| it, |builder| builder.quarantine(None));
    running.serves();
    kill(running.pid());
    for call_async in [false, true] {
        let request = Request::text("x").with_timeout(std::time::Duration::from_millis(20));
        let outcome = match call_async {
            false => running.handle.call(request),
            true => block_on(running.handle.execute(request)),
        };
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.full_message());
    }
    std::fs::write(&go, "").unwrap();
    running.serves();
    running.end();
}

/// Set in the subprocess that counts leftovers.
const ALONE: &str = "HOTBAY_TESTS_ALONE";

/// Runs in a subprocess, so that all leftovers can be counted.
#[test]
fn random_kills_cause_no_wrong_reply_and_leave_nothing() {
    const TEST: &str =
        concat!(module_path!(), "::random_kills_cause_no_wrong_reply_and_leave_nothing");
    if env::var_os(ALONE).is_none() {
        run_in_subprocess(TEST, &[(ALONE, "1")]);
        return;
    }
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "echo").built("served", "served");
    let folder = folder.set("package", "served").install();
    let staging = plugins.dir().join("staged");
    fs::create_dir(&staging).unwrap();
    let run = |kills| {
        let host = Host::builder().quarantine(None).staging_dir(&staging).build().unwrap();
        let plugin = loaded(&host, &folder);
        let how = Kills {
            kills,
            callers: 4,
            timeout: Duration::from_secs(5),
            max_pause: Duration::from_millis(20),
        };
        let killed = kill_often(&plugin, &mut host.events(), how);
        block_on(host.shutdown(LIMIT));
        killed
    };
    // Resources that are created once and kept exist by now.
    run(1);
    let before = ResourceSnapshot::take();
    let killed = run(10);
    assert!(killed.wrong.is_empty(), "{:?}", killed.wrong);
    assert!(killed.answered > 0, "{killed:?}");
    let left = before.leftovers_within(LIMIT);
    assert!(left.is_empty(), "{left:?}");
    let staged: Vec<_> = fs::read_dir(&staging).unwrap().collect();
    assert!(staged.is_empty(), "{staged:?}");
}
