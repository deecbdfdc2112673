//! The state of a supervised process that its callers and its watch task share: its phase, and its
//! calls.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::capabilities::Capabilities;
use crate::client::Client;
use crate::error::Diagnosis;
use crate::program::Program;
use crate::restart::ExitCause;
use crate::usage::Meter;

/// State shared by the callers of a process and its watch task.
pub(crate) struct Shared {
    pub(crate) program: Arc<Program>,
    pub(crate) capabilities: Capabilities,
    pub(crate) phase: watch::Sender<Phase>,
    /// Weak, so that the task notices when all senders are dropped.
    pub(crate) commands: mpsc::WeakUnboundedSender<Command>,
    pub(crate) activity: Activity,
    /// The host's runtime.
    pub(crate) timers: Handle,
}

/// The phase of a process; completes the sentence "the process is …".
#[derive(Clone)]
pub(crate) enum Phase {
    /// Being started.
    Starting,
    /// Running, and can be called.
    Serving(Arc<Live>),
    /// Not running: it exited by its idle timeout, and is started by the next call.
    Idle,
    /// Not running: the last start failed, and is retried at this instant.
    Backoff { why: Arc<Diagnosis>, until: Instant },
    /// Stopped for good.
    Stopped,
}

/// A process that can be called.
pub(crate) struct Live {
    pub(crate) pid: u32,
    pub(crate) client: Client,
    pub(crate) meter: Meter,
    /// Its socket, if a second process of the program would use the same path.
    pub(crate) fixed_socket: Option<PathBuf>,
    /// How it ended; set before the phase changes.
    pub(crate) end: OnceLock<ExitCause>,
    /// Why it ended, if it was not idle and not asked to stop.
    pub(crate) exit_reason: watch::Sender<Option<Diagnosis>>,
}

/// A command to the watch task of a process.
pub(crate) enum Command {
    /// A call waits for an idle process.
    Wake,
    /// A call to this process missed its deadline: check whether it hangs.
    CheckHung { pid: u32 },
    /// Stop it, with a grace period if `graceful`. The sender reports the result.
    Stop { graceful: bool, done: tokio::sync::oneshot::Sender<Result<(), Diagnosis>> },
}

/// Fraction of the idle timeout by which host and process may disagree: each measures from the end
/// of the last call as it sees it.
const IDLE_SLACK_DIVISOR: u32 = 4;
const MAX_IDLE_SLACK: Duration = Duration::from_secs(1);

/// Time after its idle timeout for which a process may still be about to exit.
const EXIT_WINDOW: Duration = Duration::from_secs(2);

/// What a call adds to the calls that have begun.
const ONE_BEGUN: u64 = 1 << 32;

/// The maximum number of calls that are tracked at once; further ones are only counted.
const MAX_TRACKED: usize = 256;

/// The calls of one process.
#[derive(Debug)]
pub(crate) struct Activity {
    /// The number of running calls, and [`ONE_BEGUN`] times that of calls that have begun.
    calls: AtomicU64,
    /// The ids of running calls, and 0 for unused places, if they are tracked.
    tracked: Option<Box<[AtomicU64]>>,
    /// Whether the current process has responded to anything.
    has_served: AtomicBool,
    answers: AtomicU32,
    /// A request sent after the last response was never answered.
    has_lost: AtomicBool,
    /// Nanoseconds from `since` to the last response, or to the start of the process.
    last_ns: AtomicU64,
    since: Instant,
    /// A deadline was missed, and the watch task was notified.
    is_suspected: AtomicBool,
}

impl Activity {
    /// Creates the state without calls. `tracks_calls` gives each call an id.
    pub(crate) fn new(tracks_calls: bool) -> Self {
        let places = || (0..MAX_TRACKED).map(|_| AtomicU64::new(0)).collect();
        Self {
            calls: AtomicU64::new(0),
            tracked: tracks_calls.then(places),
            has_served: AtomicBool::new(false),
            answers: AtomicU32::new(0),
            has_lost: AtomicBool::new(false),
            last_ns: AtomicU64::new(0),
            since: Instant::now(),
            is_suspected: AtomicBool::new(false),
        }
    }

    /// Counts a request until the returned guard is dropped. Tracks it if it `is_call`.
    pub(crate) fn begin(&self, is_call: bool) -> Running<'_> {
        let before = self.calls.fetch_add(ONE_BEGUN + 1, Ordering::Relaxed);
        let places = self.tracked.as_deref().filter(|_| is_call);
        let place = places.and_then(|places| track(places, begun(before)));
        Running { calls: &self.calls, place }
    }

    pub(crate) fn is_running(&self) -> bool {
        running(self.calls.load(Ordering::Relaxed)) > 0
    }

    pub(crate) fn tracks_calls(&self) -> bool {
        self.tracked.is_some()
    }

    /// Returns the calls in flight. Those that begin or end meanwhile may be missing.
    pub(crate) fn calls(&self) -> CallsInFlight {
        let calls = self.calls.load(Ordering::Relaxed);
        let ids = self.tracked.iter().flatten().map(|place| place.load(Ordering::Relaxed));
        let ids = ids.filter(|id| *id != 0).collect();
        CallsInFlight { running: running(calls), begun: begun(calls), ids }
    }

    /// Returns whether a request is in flight, or the last one was never answered.
    pub(crate) fn is_owed(&self) -> bool {
        self.is_running() || self.has_lost.load(Ordering::Relaxed)
    }

    /// Records that the process left a request unanswered.
    pub(crate) fn lost(&self) {
        self.has_lost.store(true, Ordering::Relaxed);
    }

    /// Records the start of a process.
    pub(crate) fn started(&self, now: Instant) {
        self.note(now);
        self.has_lost.store(false, Ordering::Relaxed);
        self.is_suspected.store(false, Ordering::Relaxed);
    }

    /// Records a response of the process.
    pub(crate) fn answered(&self, now: Instant) {
        self.note(now);
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.has_lost.store(false, Ordering::Relaxed);
        self.has_served.store(true, Ordering::Relaxed);
    }

    fn note(&self, now: Instant) {
        let ns = now.saturating_duration_since(self.since).as_nanos();
        self.last_ns.store(u64::try_from(ns).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the number of responses so far; wraps around.
    pub(crate) fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Returns whether the process has responded since it started, and resets the flag for the next
    /// process.
    pub(crate) fn take_has_served(&self) -> bool {
        self.has_served.swap(false, Ordering::Relaxed)
    }

    /// Returns the time of the last response, or of the start of the process.
    pub(crate) fn last(&self) -> Instant {
        self.since + Duration::from_nanos(self.last_ns.load(Ordering::Relaxed))
    }

    /// Returns whether a process that exits at `now` may do so because of `idle_timeout`; zero
    /// means it never does.
    pub(crate) fn was_idle(&self, idle_timeout: Duration, now: Instant) -> bool {
        is_idle(idle_timeout, now.saturating_duration_since(self.last()))
    }

    /// Returns whether a call sent at `sent` that lost its connection at `now` may have raced with
    /// such an exit.
    pub(crate) fn may_race_idle_exit(
        &self,
        idle_timeout: Duration,
        sent: Instant,
        now: Instant,
    ) -> bool {
        let idle = now.saturating_duration_since(self.last());
        self.was_idle(idle_timeout, sent) && idle <= idle_timeout.saturating_add(EXIT_WINDOW)
    }

    /// Records a missed deadline; returns true if the watch task has not been notified yet.
    #[must_use]
    pub(crate) fn suspect(&self) -> bool {
        !self.is_suspected.swap(true, Ordering::Relaxed)
    }

    /// Clears the suspicion: the process has proved to be alive.
    pub(crate) fn trust(&self) {
        self.is_suspected.store(false, Ordering::Relaxed);
    }
}

/// Returns whether a process that has been idle for `idle` may exit for that reason; a timeout of
/// zero disables this.
pub(crate) fn is_idle(idle_timeout: Duration, idle: Duration) -> bool {
    !idle_timeout.is_zero() && idle >= idle_timeout.saturating_sub(slack(idle_timeout))
}

fn slack(idle_timeout: Duration) -> Duration {
    (idle_timeout / IDLE_SLACK_DIVISOR).min(MAX_IDLE_SLACK)
}

/// A call in flight.
#[must_use]
pub(crate) struct Running<'a> {
    calls: &'a AtomicU64,
    place: Option<&'a AtomicU64>,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.store(0, Ordering::Relaxed);
        }
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The calls in flight at one time.
#[derive(Clone, Debug)]
pub(crate) struct CallsInFlight {
    pub(crate) running: u32,
    /// The number of calls that have begun so far; wraps around.
    pub(crate) begun: u32,
    /// The ids of those that are tracked.
    pub(crate) ids: Vec<u64>,
}

const fn running(calls: u64) -> u32 {
    calls as u32
}

const fn begun(calls: u64) -> u32 {
    (calls >> 32) as u32
}

/// Puts the id of a call into an unused place; returns `None` if there is none.
fn track(places: &[AtomicU64], begun: u32) -> Option<&AtomicU64> {
    let id = u64::from(begun) + 1;
    // Usually the first of them is unused.
    let (before, first) = places.split_at(begun as usize % places.len().max(1));
    first
        .iter()
        .chain(before)
        .find(|place| place.compare_exchange(0, id, Ordering::Relaxed, Ordering::Relaxed).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_flight_are_counted_and_tracked() {
        let activity = Activity::new(true);
        let [first, second] = [activity.begin(true), activity.begin(true)];
        drop(first);
        let third = activity.begin(true);
        let calls = activity.calls();
        assert_eq!((calls.running, calls.begun, &calls.ids[..]), (2, 3, &[2, 3][..]));
        drop([second, third]);
        assert!(!activity.is_running());
        let many: Vec<_> = (0..MAX_TRACKED + 1).map(|_| activity.begin(true)).collect();
        assert_eq!(activity.calls().ids.len(), MAX_TRACKED);
        drop(many);
        assert_eq!((activity.calls().running, activity.calls().ids.len()), (0, 0));
        let counted = Activity::new(false);
        let _call = counted.begin(true);
        assert_eq!((counted.calls().running, counted.calls().ids.len()), (1, 0));
    }

    #[test]
    fn idle_exit_is_measured_from_the_last_response() {
        let activity = Activity::new(false);
        let start = activity.since;
        let after = |ms| start + Duration::from_millis(ms);
        let idle_timeout = Duration::from_millis(400);
        activity.started(start);
        assert!(!activity.was_idle(idle_timeout, after(299)));
        assert!(activity.was_idle(idle_timeout, after(300)));
        activity.answered(after(300));
        assert!(!activity.was_idle(idle_timeout, after(599)));
        assert!(activity.was_idle(idle_timeout, after(600)));
        assert!(!activity.was_idle(Duration::ZERO, after(100_000)), "zero disables idle exits");
        let may_race = |sent_ms, lost_ms| {
            activity.may_race_idle_exit(idle_timeout, after(sent_ms), after(lost_ms))
        };
        assert!(may_race(700, 700) && may_race(700, 2_700) && may_race(2_700, 2_700));
        assert!(!may_race(2_701, 2_701), "it was not about to exit");
        assert!(!may_race(700, 2_701), "it ran for longer than an exit takes");
        let hour = Duration::from_secs(3600);
        assert!(!activity.was_idle(hour, after(300) + hour - Duration::from_millis(1001)));
        assert!(activity.was_idle(hour, after(300) + hour - Duration::from_millis(1000)));
    }
}
