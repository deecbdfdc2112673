//! The runtime of a job's caller, on which the job runs as a task. Checks whether that runtime polls
//! the task, which then moves to the host's runtime. Runs nothing itself.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::sync::lock;

/// Interval of the checks of a task. It doubles while the task only waits for its plugin.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
const MAX_CHECK_INTERVAL: Duration = Duration::from_millis(320);

/// The runtime in which a job was queued, and the job's task in it.
pub(crate) struct CallerRuntime {
    runtime: Handle,
    check: Mutex<Check>,
}

/// A task of the caller's runtime that runs a job.
pub(super) trait CallerTask: Send + Sync {
    /// Returns the number of its polls so far, if it waits to be polled.
    fn polls_if_woken(&self) -> Option<u32>;
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
    /// The number of polls at the last check, if the task waited to be polled.
    polls_if_woken: Option<u32>,
}

impl CallerRuntime {
    /// Creates the state of a job that is not running yet.
    pub(crate) fn new(runtime: Handle) -> Self {
        let check = Check { task: None, at: None, interval: CHECK_INTERVAL, polls_if_woken: None };
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
    /// Returns when to check again.
    pub(crate) fn check(&self, now: Instant) -> Instant {
        let mut check = lock(&self.check);
        let task = check.task();
        let polls = task.as_ref().and_then(|task| task.polls_if_woken());
        let is_stuck = polls.is_some() && polls == check.polls_if_woken;
        check.polls_if_woken = polls;
        check.interval = match polls {
            Some(_) => CHECK_INTERVAL,
            None => (check.interval * 2).min(MAX_CHECK_INTERVAL),
        };
        let next = now + check.interval;
        check.at = Some(next);
        drop(check);
        if let Some(task) = task.filter(|_| is_stuck) {
            task.move_to_host();
        }
        next
    }
}

impl Check {
    fn task(&self) -> Option<Arc<dyn CallerTask>> {
        self.task.as_ref()?.upgrade()
    }
}
