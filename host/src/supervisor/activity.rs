//! What calls leave behind for the task that watches their process: how many are under way, when
//! the last one was answered, and whether a deadline was missed.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The part of an idle time by which host and process may disagree: each counts from the end of
/// the last call as it sees it.
const IDLE_SLACK_PART: u32 = 4;
const IDLE_SLACK_MAX: Duration = Duration::from_secs(1);

/// How long after its idle time a process may still be about to exit.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);

/// The calls of one process.
#[derive(Debug)]
pub(super) struct Activity {
    running: AtomicU32,
    /// Whether the process that serves has answered anything.
    has_served: AtomicBool,
    answers: AtomicU32,
    /// A request that was sent after the last answer got none.
    has_lost: AtomicBool,
    /// Nanoseconds from `since` to the last answer, or to the start of the process.
    last_ns: AtomicU64,
    since: Instant,
    /// A deadline was missed, and the task that watches was told.
    is_suspected: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            running: AtomicU32::new(0),
            has_served: AtomicBool::new(false),
            answers: AtomicU32::new(0),
            has_lost: AtomicBool::new(false),
            last_ns: AtomicU64::new(0),
            since: Instant::now(),
            is_suspected: AtomicBool::new(false),
        }
    }

    /// Counts a call until the guard is dropped.
    pub(super) fn begin(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// Whether a request is under way, or the last one got no answer.
    pub(super) fn is_owed(&self) -> bool {
        self.is_running() || self.has_lost.load(Ordering::Relaxed)
    }

    /// The process has left a request without an answer.
    pub(super) fn lost(&self) {
        self.has_lost.store(true, Ordering::Relaxed);
    }

    /// A process has started.
    pub(super) fn started(&self, now: Instant) {
        self.note(now);
        self.has_lost.store(false, Ordering::Relaxed);
        self.is_suspected.store(false, Ordering::Relaxed);
    }

    /// The process has answered.
    pub(super) fn answered(&self, now: Instant) {
        self.note(now);
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.has_lost.store(false, Ordering::Relaxed);
        self.has_served.store(true, Ordering::Relaxed);
    }

    fn note(&self, now: Instant) {
        let ns = now.saturating_duration_since(self.since).as_nanos();
        self.last_ns.store(u64::try_from(ns).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Answers so far; wraps around.
    pub(super) fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Whether the process has answered since it started; the next one has not.
    pub(super) fn take_has_served(&self) -> bool {
        self.has_served.swap(false, Ordering::Relaxed)
    }

    /// The last answer, or the start of the process.
    pub(super) fn last(&self) -> Instant {
        self.since + Duration::from_nanos(self.last_ns.load(Ordering::Relaxed))
    }

    /// Whether a process that exits at `now` may do so because it was idle for `idle_max`; zero
    /// is never.
    pub(super) fn was_idle(&self, idle_max: Duration, now: Instant) -> bool {
        is_idle(idle_max, now.saturating_duration_since(self.last()))
    }

    /// Whether a call that was sent at `sent` may have met such an exit.
    pub(super) fn may_meet_idle_exit(&self, idle_max: Duration, sent: Instant) -> bool {
        let idle = sent.saturating_duration_since(self.last());
        self.was_idle(idle_max, sent) && idle <= idle_max.saturating_add(LEAVES_WITHIN)
    }

    /// A call missed its deadline; true if the task that watches does not know it yet.
    #[must_use]
    pub(super) fn suspect(&self) -> bool {
        !self.is_suspected.swap(true, Ordering::Relaxed)
    }

    /// The process has shown that it is alive.
    pub(super) fn trust(&self) {
        self.is_suspected.store(false, Ordering::Relaxed);
    }
}

/// Whether a process that has had nothing to do for so long may exit because of that; zero is never.
pub(super) fn is_idle(idle_max: Duration, idle: Duration) -> bool {
    !idle_max.is_zero() && idle >= idle_max.saturating_sub(slack(idle_max))
}

fn slack(idle_max: Duration) -> Duration {
    (idle_max / IDLE_SLACK_PART).min(IDLE_SLACK_MAX)
}

/// A call that is under way.
#[must_use]
pub(super) struct Running<'a>(&'a AtomicU32);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_exit_is_recognised_from_the_last_answer_on() {
        let activity = Activity::new();
        let start = activity.since;
        let after = |ms| start + Duration::from_millis(ms);
        let idle_max = Duration::from_millis(400);
        activity.started(start);
        assert!(!activity.was_idle(idle_max, after(299)));
        assert!(activity.was_idle(idle_max, after(300)));
        activity.answered(after(300));
        assert!(!activity.was_idle(idle_max, after(599)));
        assert!(activity.was_idle(idle_max, after(600)));
        assert!(!activity.was_idle(Duration::ZERO, after(100_000)), "zero is never");
        assert!(activity.may_meet_idle_exit(idle_max, after(700)));
        assert!(activity.may_meet_idle_exit(idle_max, after(2_700)));
        assert!(!activity.may_meet_idle_exit(idle_max, after(2_701)), "it was not about to exit");
        let hour = Duration::from_secs(3600);
        assert!(!activity.was_idle(hour, after(300) + hour - Duration::from_millis(1001)));
        assert!(activity.was_idle(hour, after(300) + hour - Duration::from_millis(1000)));
    }
}
