//! Waits for futures, events and states, with a limit far above what is needed, so that a hanging
//! test fails. Nothing here measures time.

use std::fmt::Debug;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{CancellationToken, Events, HostEvent};

/// Limit of every wait.
pub const LIMIT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Runs a future to completion on this thread.
///
/// # Panics
///
/// Panics if it takes longer than [`LIMIT`].
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O builds");
    runtime
        .block_on(async { tokio::time::timeout(LIMIT, future).await })
        .unwrap_or_else(|_| panic!("not completed after {LIMIT:?}"))
}

/// Waits for the first event that matches, and discards those before it.
///
/// # Panics
///
/// Panics if it does not arrive within [`LIMIT`], or the host is dropped.
pub fn event(events: &mut Events, expected: impl Fn(&HostEvent) -> bool) -> HostEvent {
    let mut received = events_until(events, expected);
    received.pop().expect("the last event matches")
}

/// Waits for the first event that matches, and returns all events up to it.
///
/// # Panics
///
/// Panics if it does not arrive within [`LIMIT`], or the host is dropped.
pub fn events_until(events: &mut Events, expected: impl Fn(&HostEvent) -> bool) -> Vec<HostEvent> {
    let mut received = Vec::new();
    let all = &mut received;
    let waited = block_on(async move {
        let wait = async {
            while let Some(event) = events.next().await {
                all.push(event);
                if all.last().is_some_and(&expected) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(LIMIT / 2, wait).await
    });
    match waited {
        Ok(true) => received,
        Ok(false) => {
            panic!("the host was dropped before the event arrived; received: {received:#?}")
        }
        Err(_) => panic!("the event did not arrive; received: {received:#?}"),
    }
}

/// Polls a condition until it returns a value: first often, then with pauses, since spinning takes
/// the core from what is waited for.
///
/// # Panics
///
/// Panics if it returns none within [`LIMIT`].
pub fn until<T: Debug>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut polls = 0_u64;
    loop {
        polls += 1;
        if let Some(value) = poll() {
            return value;
        }
        assert!(started.elapsed() < LIMIT, "timed out waiting until {what}");
        if polls < 200 {
            thread::yield_now();
        } else {
            thread::sleep(POLL_INTERVAL);
        }
    }
}

/// Sets a flag when dropped, so that the threads of a failing test end.
#[derive(Debug)]
pub struct StopOnDrop<'f>(pub &'f AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Cancels calls when dropped, so that the threads of a failing test end.
#[derive(Debug)]
pub struct CancelOnDrop<'t>(pub &'t CancellationToken);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
