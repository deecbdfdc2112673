//! Decides when the program stops: counts running calls, measures idle time, and receives requests
//! to stop, by signal or by code.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Set once the program stops; the other bits count the running calls.
const STOPPING: u64 = 1 << 63;

/// Shared by all connections; a call costs two atomic additions.
#[derive(Debug)]
pub(super) struct ActivityTracker {
    state: AtomicU64,
    /// End of the last call, in nanoseconds after `started_at`.
    last_call_end_ns: AtomicU64,
    started_at: Instant,
}

/// Whether a connection is kept for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum KeepAlive {
    Keep,
    Close,
}

/// Result of an idle check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum IdleCheck {
    /// Not idle for long enough: check again after this time.
    Wait(Duration),
    Expired,
}

/// Result of an attempt to stop an idle program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum StopAttempt {
    Stopping,
    CallsRunning,
}

impl ActivityTracker {
    pub(super) fn new(now: Instant) -> Self {
        Self { state: AtomicU64::new(0), last_call_end_ns: AtomicU64::new(0), started_at: now }
    }

    /// Records the start of a call.
    pub(super) fn begin_call(&self) {
        self.state.fetch_add(1, Ordering::SeqCst);
    }

    /// Records the end of a call.
    pub(super) fn end_call(&self, now: Instant) -> KeepAlive {
        let ns = now.saturating_duration_since(self.started_at).as_nanos();
        self.last_call_end_ns.store(u64::try_from(ns).unwrap_or(u64::MAX), Ordering::Relaxed);
        keep_alive(self.state.fetch_sub(1, Ordering::SeqCst))
    }

    /// Returns whether connections are currently kept for another request.
    pub(super) fn keep_alive(&self) -> KeepAlive {
        keep_alive(self.state.load(Ordering::SeqCst))
    }

    /// Checks whether no call has run for `idle_timeout`.
    pub(super) fn check_idle(&self, idle_timeout: Duration, now: Instant) -> IdleCheck {
        if self.state.load(Ordering::SeqCst) & !STOPPING != 0 {
            return IdleCheck::Wait(idle_timeout);
        }
        let idle_since =
            self.started_at + Duration::from_nanos(self.last_call_end_ns.load(Ordering::Relaxed));
        let idle_time = now.saturating_duration_since(idle_since);
        match idle_timeout.checked_sub(idle_time) {
            Some(remaining) if !remaining.is_zero() => IdleCheck::Wait(remaining),
            _ => IdleCheck::Expired,
        }
    }

    /// Begins to stop, unless a call is running.
    pub(super) fn stop_if_idle(&self) -> StopAttempt {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        match self.state.compare_exchange(0, STOPPING, success, failure) {
            Ok(_) => StopAttempt::Stopping,
            Err(_) => StopAttempt::CallsRunning,
        }
    }

    /// Begins to stop, even if calls are running.
    pub(super) fn stop(&self) {
        self.state.fetch_or(STOPPING, Ordering::SeqCst);
    }
}

fn keep_alive(state: u64) -> KeepAlive {
    if state & STOPPING == 0 { KeepAlive::Keep } else { KeepAlive::Close }
}

/// Wakes the main thread from any thread or signal handler, and records whether to stop.
#[derive(Debug)]
pub(super) struct StopSignal {
    receiver: UnixStream,
    sender: UnixStream,
    stop_requested: Arc<AtomicBool>,
}

impl StopSignal {
    /// Creates a stop signal that SIGTERM and SIGINT trigger from now on.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn new() -> io::Result<Self> {
        let stop_signal = Self::without_signals()?;
        for signal in [SIGTERM, SIGINT] {
            // The flag first: when the main thread wakes up, the flag is set.
            signal_hook::flag::register(signal, Arc::clone(&stop_signal.stop_requested))?;
            signal_hook::low_level::pipe::register(signal, stop_signal.sender.try_clone()?)?;
        }
        Ok(stop_signal)
    }

    /// Creates a stop signal that only code triggers.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn without_signals() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        Ok(Self { receiver, sender, stop_requested: Arc::default() })
    }

    /// Requests the program to stop.
    pub(super) fn request_stop(&self) {
        self.stop_requested.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Returns whether a stop was requested.
    pub(super) fn is_stop_requested(&self) -> bool {
        self.stop_requested.load(Ordering::SeqCst)
    }

    /// Wakes the main thread.
    pub(super) fn wake(&self) {
        // A full socket already wakes the main thread.
        let _ = (&self.sender).write(&[1]);
    }

    /// Discards the wake-ups so far.
    pub(super) fn drain(&self) {
        while (&self.receiver).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    }
}

impl AsFd for StopSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn idle_time_starts_at_the_end_of_the_last_call() {
        let start = Instant::now();
        let tracker = ActivityTracker::new(start);
        let idle = |now| tracker.check_idle(DEFAULT_IDLE_TIMEOUT, start + second(now));
        assert_eq!(idle(0), IdleCheck::Wait(second(10)));
        assert_eq!(idle(9), IdleCheck::Wait(second(1)));
        assert_eq!(idle(10), IdleCheck::Expired);
        tracker.begin_call();
        assert_eq!(idle(100), IdleCheck::Wait(second(10)));
        assert_eq!(tracker.end_call(start + second(103)), KeepAlive::Keep);
        assert_eq!(idle(104), IdleCheck::Wait(second(9)));
        assert_eq!(idle(113), IdleCheck::Expired);
    }

    #[test]
    fn idle_program_stops_only_without_running_calls() {
        let start = Instant::now();
        let tracker = ActivityTracker::new(start);
        tracker.begin_call();
        assert_eq!(tracker.stop_if_idle(), StopAttempt::CallsRunning);
        assert_eq!(tracker.end_call(start), KeepAlive::Keep);
        assert_eq!(tracker.keep_alive(), KeepAlive::Keep);
        assert_eq!(tracker.stop_if_idle(), StopAttempt::Stopping);
        tracker.begin_call();
        assert_eq!(
            (tracker.keep_alive(), tracker.end_call(start)),
            (KeepAlive::Close, KeepAlive::Close)
        );
    }

    #[test]
    fn call_running_at_the_stop_closes_its_connection() {
        let start = Instant::now();
        let tracker = ActivityTracker::new(start);
        tracker.begin_call();
        tracker.stop();
        assert_eq!(tracker.end_call(start), KeepAlive::Close);
    }
}
