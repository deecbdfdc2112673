//! The runtime of a job's caller, on which the job runs as a task. Checks whether that runtime polls
//! the task, which then moves to the host's runtime. Runs nothing itself.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::sync::lock;

/// Interval of the checks of a task. It doubles while the runtime polls the task in time.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(320);

/// The runtime in which a job was queued, and the job's task in it.
pub(crate) struct CallerRuntime {
    runtime: Handle,
    check: Mutex<Check>,
}

/// A task of the caller's runtime that runs a job.
pub(super) trait CallerTask: Send + Sync {
    /// Returns the number of its polls so far.
    fn polls(&self) -> u32;
    /// Returns whether it waits to be polled.
    fn is_woken(&self) -> bool;
    /// Wakes the task of the caller's runtime, without an event.
    fn wake_for_check(&self);
    /// Polls the job on this thread, unless another thread does.
    fn poll_here(self: Arc<Self>);
    /// Continues in a task of the host's runtime, unless it is being polled.
    fn move_to_host(self: Arc<Self>);
}

/// The state of the checks of one job.
struct Check {
    /// `None` until the job runs.
    task: Option<Weak<dyn CallerTask>>,
    /// `None` until the job is started.
    at: Option<Instant>,
    interval: Duration,
    /// The number of polls at the last check; `None` before the job runs.
    polls: Option<u32>,
}

impl CallerRuntime {
    /// Creates the state of a job that is not running yet.
    pub(crate) fn new(runtime: Handle) -> Self {
        let check = Check { task: None, at: None, interval: CHECK_INTERVAL, polls: None };
        Self { runtime, check: check.into() }
    }

    /// Spawns `driver`, which polls `task`.
    pub(super) fn spawn(
        &self,
        task: Weak<dyn CallerTask>,
        driver: impl Future<Output = ()> + Send + 'static,
    ) {
        lock(&self.check).task = Some(task);
        self.runtime.spawn(driver);
    }

    /// Runs a cancelled job to its end on this thread, unless another thread does.
    pub(crate) fn end(&self) {
        let task = lock(&self.check).task();
        if let Some(task) = task {
            task.poll_here();
        }
    }

    /// Returns when to check the job.
    pub(super) fn check_at(&self) -> Instant {
        *lock(&self.check).at.get_or_insert_with(|| Instant::now() + CHECK_INTERVAL)
    }

    /// Moves the task to the host's runtime if it has waited to be polled since the last check.
    /// Otherwise wakes it: a runtime that stopped does not notice the events of its sockets, so the
    /// task would not be woken. Returns when to check again.
    pub(crate) fn check(&self, now: Instant) -> Instant {
        let mut check = lock(&self.check);
        let task = check.task();
        let polls = task.as_ref().map(|task| task.polls());
        let is_woken = task.as_ref().is_some_and(|task| task.is_woken());
        let is_stuck = is_woken && polls == check.polls;
        check.polls = polls;
        check.interval = match is_woken {
            true => CHECK_INTERVAL,
            false => (check.interval * 2).min(MAX_CHECK_INTERVAL),
        };
        let next = now + check.interval;
        check.at = Some(next);
        drop(check);
        match task {
            Some(task) if is_stuck => task.move_to_host(),
            Some(task) if !is_woken => task.wake_for_check(),
            _ => {}
        }
        next
    }
}

impl Check {
    fn task(&self) -> Option<Arc<dyn CallerTask>> {
        self.task.as_ref()?.upgrade()
    }
}
