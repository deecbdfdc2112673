//! Connections of a process: how many it serves at once, how long it keeps them, and what it may
//! send.

use std::thread;
use std::time::Duration;

use hotbay::{ErrorKind, HostEvent, Request};
use hotbay_tests::{block_on, limits};
use serde_json::{Value, json};

use super::fixture::{ProcessFixture, Running};

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// Calls from `callers` threads at once, by both call methods in varying order.
#[track_caller]
fn echoes(running: &Running, callers: usize, calls: usize) {
    thread::scope(|scope| {
        let call = |caller: usize| {
            move || {
                for nth in 0..calls {
                    let text = format!("{caller} {nth}");
                    let request = || Request::text(&text).with_timeout(NEVER);
                    let reply = match (caller + nth) % 2 {
                        0 => running.handle.call(request()),
                        _ => block_on(running.handle.execute(request())),
                    };
                    let reply = reply.unwrap_or_else(|error| panic!("{}", error.full_message()));
                    assert_eq!(reply.as_text().unwrap(), text);
                }
            }
        };
        let callers: Vec<_> = (0..callers).map(|caller| scope.spawn(call(caller))).collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
}

#[test]
fn program_with_few_connections_answers_every_call() {
    for at_once in [1, 2, 3] {
        for kind in ["unix", "tcp"] {
            let behavior = json!({ "serve": { "at_once": at_once }, "location": { "kind": kind } });
            let running = ProcessFixture::new().run(behavior);
            running.serves();
            echoes(&running, 6, 20);
            running.serves();
            running.end();
        }
    }
}

#[test]
fn single_threaded_program_survives_restart_and_reload() {
    let running = ProcessFixture::new().run(json!({ "serve": { "at_once": 1, "state": true } }));
    running.serves();
    super::fixture::kill(running.pid());
    running.serves();
    let folder = running.fixture.file(&running.fixture.name);
    hotbay_tests::set_behavior(
        &folder,
        &json!({
            "serve": { "at_once": 1, "state": true }, "journal": running.fixture.file("journal"),
            "marks": running.fixture.file("marks"),
        }),
    );
    let manifest = folder.join("plugin.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let changed = text.replace("\"permissions\"", "\"description\": \"new\", \"permissions\"");
    std::fs::write(&manifest, changed).unwrap();
    hotbay_tests::reloaded(&running.host, &running.fixture.name);
    running.serves();
    running.end();
}

#[test]
fn connection_close_to_keep_alive_end_is_not_used() {
    // It closes connections idle for 200 ms, but can only announce whole seconds.
    let serve = json!({ "close_idle_ms": 200, "headers": { "Keep-Alive": "timeout=0" } });
    let running = ProcessFixture::new().run(json!({ "serve": serve }));
    echoes(&running, 4, 100);
    running.end();
}

#[test]
fn connection_marked_close_is_not_reused() {
    for serve in [
        json!({ "close_after_calls": 1, "headers": { "Connection": "close" } }),
        json!({ "close_after_calls": 1, "version": "HTTP/1.0" }),
        json!({ "close_after_calls": 1, "headers": { "Keep-Alive": "timeout=5, max=0" } }),
        json!({ "version": "HTTP/1.0", "headers": { "Connection": "keep-alive" } }),
        json!({ "at_once": 1, "version": "HTTP/1.0", "close_after_calls": 1 }),
    ] {
        let running = ProcessFixture::new().run(json!({ "serve": serve }));
        echoes(&running, 3, 30);
        running.end();
    }
}

/// Returns the error kind of a pooled call that is never answered, while another plugin serves.
fn unanswered(answer: Value, deadline: Option<Duration>) -> ErrorKind {
    let neighbor = ProcessFixture::new();
    let neighbor_folder = neighbor.program(json!({})).install();
    let flood = json!({ "how": answer, "body": "x" });
    let soon = limits(|limits| limits.process_health_timeout = NEVER);
    let running = ProcessFixture::new().run_with(
        json!({ "serve": { "execute": flood } }),
        |it| it,
        |builder| builder.quarantine(None).limits(soon),
    );
    let near = hotbay_tests::loaded(&running.host, neighbor_folder);
    let request = || match deadline {
        Some(deadline) => Request::text("x").with_timeout(deadline),
        None => Request::text("x"),
    };
    let kind = thread::scope(|scope| {
        let floods: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| block_on(running.handle.execute(request())).unwrap_err().kind())
            })
            .collect();
        // The neighbor is called during the flood, by the same runtime threads.
        for _ in 0..50 {
            let reply = block_on(near.execute(Request::text("near"))).unwrap();
            assert_eq!(reply.as_bytes(), b"near");
        }
        let kinds: Vec<_> = floods.into_iter().map(|flood| flood.join().unwrap()).collect();
        assert!(kinds.iter().all(|kind| *kind == kinds[0]), "{kinds:?}");
        kinds[0]
    });
    let in_thread = running.handle.call(request()).unwrap_err().kind();
    assert_eq!(in_thread, kind, "both call methods agree");
    block_on(running.host.unload(near.name().as_str())).unwrap();
    neighbor.assert_nothing_left();
    running.end();
    kind
}

#[test]
fn endless_head_is_invalid_response() {
    assert_eq!(unanswered(json!("informational"), None), ErrorKind::Protocol);
    assert_eq!(unanswered(json!("headers"), None), ErrorKind::Protocol);
}

#[test]
fn response_sent_bytewise_ends_at_deadline() {
    let deadline = Some(Duration::from_millis(300));
    assert_eq!(unanswered(json!("drip"), deadline), ErrorKind::DeadlineExceeded);
    assert_eq!(unanswered(json!("unended"), deadline), ErrorKind::DeadlineExceeded);
}

#[test]
fn large_head_within_limit_is_read() {
    let headers = json!({ "x-large": "x".repeat(40_000) });
    let running = ProcessFixture::new().run(json!({ "serve": { "headers": headers } }));
    echoes(&running, 2, 5);
    running.end();
}

#[test]
fn closed_connection_closes_other_idle_ones() {
    // The program closes connections idle for 300 ms without announcing it. After one is found
    // closed, the others are not tried.
    let serve = json!({ "close_idle_ms": 300 });
    let running = ProcessFixture::new().run(json!({ "serve": serve }));
    echoes(&running, 8, 5);
    let events = running.host.events();
    super::connections::idle(Duration::from_millis(400));
    echoes(&running, 8, 5);
    let mut events = events;
    while let Some(event) = events.try_next() {
        assert!(!matches!(event, HostEvent::ChildExited { .. }), "{event:?}");
    }
    running.end();
}

/// Lets connections idle for a real time span.
pub(crate) fn idle(time: Duration) {
    let since = std::time::Instant::now();
    hotbay_tests::until("the time has passed", || (since.elapsed() >= time).then_some(()));
}
