//! Calls by `execute` inside a runtime run on it: on runtimes of every kind, in turn, that are
//! dropped, that do not run, or that cannot wait for sockets.

use std::fs;
use std::future::Future;
use std::panic;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{Error, ErrorKind, HostBuilder, Reply, Request};
use hotbay_tests::{LIMIT, block_on, limits, run_in_subprocess, until};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::calls::{open, recorded_end, wait, wait_started};
use super::fixture::{ProcessFixture, Running};

fn current() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn several() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Starts the fixture in a host that runs one call at a time.
fn one_at_a_time() -> Running {
    let one = limits(|limits| limits.max_process_calls = 1);
    ProcessFixture::new().run_with(json!({}), |it| it, |builder| builder.limits(one))
}

/// Blocks this thread, whatever runtime it is in, until the future completes.
fn park_until<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    let started = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park_timeout(LIMIT);
        assert!(started.elapsed() < LIMIT, "the future was not woken");
    }
}

/// Waits on a runtime until the plugin runs a call that was made with [`wait`].
async fn began(running: &Running, name: &str) {
    let file = running.fixture.file(&format!("{name}.began"));
    let begins = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, begins).await.expect("the call begins");
}

#[track_caller]
fn check(reply: Result<Reply, Error>, expected: &str) {
    match reply {
        Ok(reply) => assert_eq!(reply.as_text().expect("text"), expected),
        Err(error) => panic!("{}", error.full_message()),
    }
}

/// Makes sequential calls, calls that wait at the same time, and calls of many tasks.
fn call_on(runtime: &Runtime, running: &Running) {
    let handle = &running.handle;
    runtime.block_on(async {
        for number in 0..5 {
            let text = number.to_string();
            check(handle.execute(Request::text(&text).with_timeout(LIMIT)).await, &text);
            check(handle.call(Request::text(&text)), &text);
        }
        let texts: Vec<_> = (0..20).map(|number| number.to_string()).collect();
        let calls: Vec<_> = texts.iter().map(|text| handle.execute(Request::text(text))).collect();
        for (call, text) in calls.into_iter().zip(&texts) {
            check(call.await, text);
        }
        let large = "x".repeat(3 << 20);
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (handle, large) = (handle.clone(), large.clone());
                tokio::spawn(async move {
                    for _ in 0..5 {
                        check(handle.execute(Request::text("small")).await, "small");
                        check(handle.execute(Request::text(&large)).await, &large);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("the calls return");
        }
    });
}

#[test]
fn calls_return_on_runtimes_of_every_kind() {
    for running in [ProcessFixture::new().run(json!({})), one_at_a_time()] {
        for _ in 0..2 {
            let no_time = Builder::new_current_thread().enable_io().build().expect("a runtime");
            let no_io = Builder::new_multi_thread().enable_time().build().expect("a runtime");
            let nothing = Builder::new_current_thread().build().expect("a runtime");
            for runtime in [current(), no_io, several(), nothing, no_time] {
                call_on(&runtime, &running);
            }
        }
        let (one, other) = (current(), several());
        for _ in 0..5 {
            call_on(&one, &running);
            call_on(&other, &running);
        }
        assert_eq!(running.fixture.started().len(), 1);
        running.end();
    }
}

#[test]
fn runtimes_in_parallel_share_one_process() {
    let running = ProcessFixture::new().run(json!({}));
    thread::scope(|scope| {
        for number in 0..4 {
            let running = &running;
            scope.spawn(move || {
                for _ in 0..3 {
                    let runtime = if number % 2 == 0 { current() } else { several() };
                    call_on(&runtime, running);
                }
            });
        }
    });
    running.end();
}

#[test]
fn shutdown_of_runtime_cancels_its_calls() {
    let running = one_at_a_time();
    for (name, runtime) in [("current", current()), ("several", several())] {
        let text = wait(&running, name);
        let handle = running.handle.clone();
        runtime.block_on(async {
            tokio::spawn(async move { handle.execute(Request::json_text(&text)).await });
            began(&running, name).await;
        });
        runtime.shutdown_timeout(LIMIT);
        assert_eq!(recorded_end(&running, name), "hung up");
        // The only worker is free.
        running.serves();
    }
    running.end();
}

#[test]
fn call_awaited_elsewhere_survives_its_runtime() {
    let running = one_at_a_time();
    for (name, runtime) in [("current", current()), ("several", several())] {
        let text = wait(&running, name);
        let (call, queued) = {
            let _inside = runtime.enter();
            let call = running.handle.execute(Request::json_text(&text));
            (call, running.handle.execute(Request::text("queued")))
        };
        runtime.block_on(began(&running, name));
        drop(runtime);
        open(&running, name);
        check(block_on(call), "\"until\"");
        check(block_on(queued), "queued");
    }
    running.end();
}

#[test]
fn calls_of_runtime_that_does_not_run_return() {
    let running = one_at_a_time();
    let runtime = current();
    let _inside = runtime.enter();
    for _ in 0..3 {
        check(park_until(running.handle.execute(Request::text("never polled"))), "never polled");
    }
    let text = wait(&running, "late");
    let late =
        running.handle.execute(Request::json_text(&text).with_timeout(Duration::from_millis(500)));
    let queued = running.handle.execute(Request::text("queued"));
    assert_eq!(park_until(late).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    check(park_until(queued), "queued");
    running.end();
}

#[test]
fn call_that_blocks_the_thread_of_its_runtime_returns() {
    let running = one_at_a_time();
    for runtime in [current(), several()] {
        runtime.block_on(async {
            check(park_until(running.handle.execute(Request::text("blocked"))), "blocked");
            let call = running.handle.execute(Request::text("started"));
            tokio::task::yield_now().await;
            check(park_until(call), "started");
        });
    }
    running.end();
}

/// Starts a waiting call on a runtime, and returns it once the plugin runs it.
fn started(running: &Running, runtime: &Runtime, name: &str) -> hotbay::Execute {
    let text = wait(running, name);
    let call = {
        let _inside = runtime.enter();
        running.handle.execute(Request::json_text(&text))
    };
    runtime.block_on(began(running, name));
    call
}

#[test]
fn dropped_call_of_runtime_that_does_not_run_ends_at_once() {
    let running = one_at_a_time();
    let runtime = current();
    let call = started(&running, &runtime, "dropped");
    let queued = running.handle.execute(Request::text("queued"));
    drop(call);
    assert_eq!(recorded_end(&running, "dropped"), "hung up");
    check(block_on(queued), "queued");
    // The task may return a moment after it has answered.
    let is_idle = || running.host.stats().plugins[0].stats.running == 0;
    until("no call runs", || is_idle().then_some(()));
    check(runtime.block_on(running.handle.execute(Request::text("again"))), "again");
    running.end();
}

#[test]
fn unload_ends_calls_of_runtimes_that_do_not_run() {
    let short = limits(|limits| limits.drain_timeout = Duration::from_millis(100));
    let host = |builder: HostBuilder| builder.limits(short);
    let running = ProcessFixture::new().run_with(json!({}), |it| it, host);
    let runtimes = [current(), current(), several()];
    let calls: Vec<_> = runtimes
        .iter()
        .enumerate()
        .map(|(at, runtime)| started(&running, runtime, &at.to_string()))
        .collect();
    let Running { fixture, host, handle } = running;
    block_on(host.unload(&fixture.name)).expect("the plugin unloads");
    fixture.assert_nothing_left();
    for (call, runtime) in calls.into_iter().zip(&runtimes) {
        assert_eq!(runtime.block_on(call).unwrap_err().kind(), ErrorKind::Retired);
        let again = runtime.block_on(handle.execute(Request::text("again")));
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Retired);
    }
}

#[test]
fn shutdown_of_host_ends_calls_of_every_runtime() {
    let short = limits(|limits| limits.drain_timeout = Duration::from_millis(100));
    let host = |builder: HostBuilder| builder.limits(short);
    let running = ProcessFixture::new().run_with(json!({}), |it| it, host);
    let (idle, busy) = (current(), several());
    let waiting = started(&running, &idle, "idle");
    let text = wait(&running, "busy");
    let handle = running.handle.clone();
    let call = busy.spawn(async move { handle.execute(Request::json_text(&text)).await });
    wait_started(&running, "busy");
    let Running { fixture, host, handle } = running;
    block_on(host.shutdown(Duration::from_millis(100)));
    drop(host);
    fixture.assert_nothing_left();
    for outcome in [idle.block_on(waiting), busy.block_on(call).expect("no panic")] {
        let kind = outcome.unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::Retired | ErrorKind::Shutdown), "{kind:?}");
    }
    assert!(busy.block_on(handle.execute(Request::text("again"))).is_err());
}

#[test]
fn dropped_calls_free_their_workers() {
    let running = one_at_a_time();
    for runtime in [current(), several()] {
        runtime.block_on(async {
            for round in 0..300_u64 {
                let call = running.handle.execute(Request::text("dropped"));
                if round % 3 > 0 {
                    let pause = Duration::from_micros(round);
                    let _ = tokio::time::timeout(pause, call).await;
                }
            }
            check(running.handle.execute(Request::text("last")).await, "last");
        });
        until("no call runs", || {
            (running.host.stats().plugins[0].stats.running == 0).then_some(())
        });
    }
    running.serves();
    running.end();
}

/// Set in the subprocess that runs only one test.
const CHILD: &str = "HOTBAY_TESTS_CALLER_RUNTIMES";

/// Runs in a subprocess, since files and panics of other tests would be counted too.
#[test]
fn runtimes_leave_no_files_and_report_no_panics() {
    if std::env::var_os(CHILD).is_none() {
        let test = concat!(module_path!(), "::runtimes_leave_no_files_and_report_no_panics");
        run_in_subprocess(test, &[(CHILD, "1")]);
        return;
    }
    static PANICS: AtomicU32 = AtomicU32::new(0);
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        previous(info);
    }));
    let running = ProcessFixture::new().run(json!({}));
    let files = || fs::read_dir("/proc/self/fd").expect("a folder").count();
    let round = || {
        for runtime in [current(), several(), Builder::new_current_thread().build().unwrap()] {
            call_on(&runtime, &running);
        }
    };
    round();
    let before = files();
    (0..10).for_each(|_| round());
    // Idle connections are reused by the next runtime.
    assert!(files() <= before + 4, "{before} files before, {} then", files());
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    running.end();
}

#[test]
fn started_call_of_runtime_that_stops_running_returns() {
    let running = one_at_a_time();
    for at in 0..2 {
        let runtime = current();
        let name = format!("stopped-{at}");
        let call = started(&running, &runtime, &name);
        open(&running, &name);
        check(park_until(call), "\"until\"");
        check(park_until(running.handle.execute(Request::text("next"))), "next");
    }
    running.end();
}
