//! Calls a plugin in a loop from several threads, by `call` and by `execute`, while a test does
//! something else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hotbay::{Error, PluginHandle, Reply, Request};

use crate::{block_on, until};

/// Calls that continue while a test does something else.
#[derive(Debug)]
pub struct Traffic {
    /// Number of finished calls of each thread.
    calls: Vec<AtomicU64>,
    stop: AtomicBool,
    failed: AtomicBool,
}

impl Traffic {
    /// Waits until every thread has started and finished a call from now on.
    ///
    /// # Panics
    ///
    /// Panics if one of them failed.
    pub fn wait_for_progress(&self) {
        for calls in &self.calls {
            // The current call may have started before.
            let expected = calls.load(Ordering::Relaxed) + 2;
            until("calls go on", || {
                assert!(!self.failed.load(Ordering::Relaxed), "a caller failed");
                (calls.load(Ordering::Relaxed) >= expected).then_some(())
            });
        }
    }

    /// Returns the number of finished calls.
    pub fn calls(&self) -> u64 {
        self.calls.iter().map(|calls| calls.load(Ordering::Relaxed)).sum()
    }

    fn caller(
        &self,
        number: usize,
        handle: &PluginHandle,
        check: &(impl Fn(Result<Reply, Error>) + Sync),
    ) {
        let _failed = SetOnDrop { flag: &self.failed, always: false };
        let mut latest = None;
        while !self.stop.load(Ordering::Relaxed) {
            let outcome = match number % 2 {
                0 => handle.call(Request::text("a text of more than 24 bytes")),
                _ => block_on(handle.execute(Request::text("a text of more than 24 bytes"))),
            };
            if let Ok(reply) = &outcome {
                let generation = Some(reply.generation());
                assert!(latest <= generation, "{generation:?} answered after {latest:?}");
                latest = generation;
            }
            check(outcome);
            self.calls[number].fetch_add(1, Ordering::Relaxed);
            // Leave the cores to the test.
            thread::yield_now();
        }
    }
}

/// Runs `work` while `threads` threads call, every second one by `execute`. Checks each outcome,
/// and that generations never decrease on a thread.
///
/// # Panics
///
/// Panics if `work` or a check panics.
pub fn under_load<T>(
    handle: &PluginHandle,
    threads: usize,
    check: impl Fn(Result<Reply, Error>) + Sync,
    work: impl FnOnce(&Traffic) -> T,
) -> T {
    let traffic = Traffic {
        calls: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
        failed: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let _stop = SetOnDrop { flag: &traffic.stop, always: true };
        for number in 0..threads {
            let (traffic, check) = (&traffic, &check);
            scope.spawn(move || traffic.caller(number, handle, check));
        }
        traffic.wait_for_progress();
        let done = work(&traffic);
        traffic.wait_for_progress();
        done
    })
}

/// Sets a flag when dropped: always, or only in a panic.
struct SetOnDrop<'f> {
    flag: &'f AtomicBool,
    always: bool,
}

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        if self.always || thread::panicking() {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}
