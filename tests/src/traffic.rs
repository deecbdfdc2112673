//! Calls without pause, from several threads, by `call` and by `execute`, while something else
//! is done. It judges nothing but what holds for every call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hotbay::{Error, PluginHandle, Reply, Request};

use crate::{block_on, until};

/// Calls that go on while something is done.
#[derive(Debug)]
pub struct Traffic {
    /// Calls so far, of each thread.
    calls: Vec<AtomicU64>,
    stop: AtomicBool,
    failed: AtomicBool,
}

impl Traffic {
    /// Waits until every thread has begun and ended a call from here on.
    ///
    /// # Panics
    ///
    /// When one of them has failed.
    pub fn goes_on(&self) {
        for calls in &self.calls {
            // The one that runs now may have begun before.
            let expected = calls.load(Ordering::Relaxed) + 2;
            until("calls go on", || {
                assert!(!self.failed.load(Ordering::Relaxed), "a caller failed");
                (calls.load(Ordering::Relaxed) >= expected).then_some(())
            });
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.iter().map(|calls| calls.load(Ordering::Relaxed)).sum()
    }

    fn caller(
        &self,
        number: usize,
        handle: &PluginHandle,
        check: &(impl Fn(Result<Reply, Error>) + Sync),
    ) {
        let _failed = Raised { flag: &self.failed, always: false };
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
            // What is done meanwhile needs the cores too.
            thread::yield_now();
        }
    }
}

/// Does `work` while so many threads call; every other one by `execute`. Each outcome is
/// checked; on each thread generations never go backwards.
///
/// # Panics
///
/// When `work` or a check does.
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
        let _stop = Raised { flag: &traffic.stop, always: true };
        for number in 0..threads {
            let (traffic, check) = (&traffic, &check);
            scope.spawn(move || traffic.caller(number, handle, check));
        }
        traffic.goes_on();
        let done = work(&traffic);
        traffic.goes_on();
        done
    })
}

/// Raises a flag when it is dropped: always, or only in a panic.
struct Raised<'f> {
    flag: &'f AtomicBool,
    always: bool,
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        if self.always || thread::panicking() {
            self.flag.store(true, Ordering::Relaxed);
        }
    }
}
