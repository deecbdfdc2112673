//! Runs one job at a time per plugin. At most one request waits: a later one replaces it, or is
//! dropped if it asks for nothing more.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::id::PluginName;
use crate::sync::lock;

/// The running jobs, each with the request that waits for its end.
pub(crate) struct CoalescingQueue<R> {
    jobs: Mutex<HashMap<PluginName, Option<R>>>,
    idle: Condvar,
}

/// The outcome of submitting a request.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Submission<R> {
    /// The caller runs it now.
    Run(R),
    /// It waits for the end of the running job.
    Queued,
    /// It waits, and replaces this earlier request.
    Replaced(R),
}

impl<R> CoalescingQueue<R> {
    pub(crate) fn new() -> Self {
        Self { jobs: Mutex::default(), idle: Condvar::new() }
    }

    /// Submits a request for `plugin`.
    pub(crate) fn submit(&self, plugin: &PluginName, request: R) -> Submission<R> {
        let mut jobs = lock(&self.jobs);
        match jobs.get_mut(plugin) {
            None => {
                jobs.insert(plugin.clone(), None);
                Submission::Run(request)
            }
            Some(waiting) => {
                waiting.replace(request).map_or(Submission::Queued, Submission::Replaced)
            }
        }
    }

    /// Submits a request, or returns it as `Replaced` if another one already waits.
    pub(crate) fn submit_if_idle(&self, plugin: &PluginName, request: R) -> Submission<R> {
        let mut jobs = lock(&self.jobs);
        match jobs.get_mut(plugin) {
            Some(Some(_)) => Submission::Replaced(request),
            Some(waiting) => {
                *waiting = Some(request);
                Submission::Queued
            }
            None => {
                jobs.insert(plugin.clone(), None);
                Submission::Run(request)
            }
        }
    }

    /// Ends a job; returns the next request to run.
    #[must_use]
    pub(crate) fn done(&self, plugin: &PluginName) -> Option<R> {
        let mut jobs = lock(&self.jobs);
        let next = jobs.get_mut(plugin).and_then(Option::take);
        if next.is_none() {
            jobs.remove(plugin);
            self.idle.notify_all();
        }
        next
    }

    /// Ends a job that could not run; returns the request that waits for it.
    pub(crate) fn abandon(&self, plugin: &PluginName) -> Option<R> {
        let waiting = lock(&self.jobs).remove(plugin).flatten();
        self.idle.notify_all();
        waiting
    }

    /// Waits until no job runs for `plugin`, at most until `deadline`.
    pub(crate) fn wait(&self, plugin: &PluginName, deadline: Instant) {
        let jobs = lock(&self.jobs);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.idle.wait_timeout_while(jobs, left, |jobs| jobs.contains_key(plugin));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl<R> fmt::Debug for CoalescingQueue<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalescingQueue").field("plugins", &lock(&self.jobs).len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_runs_and_latest_request_is_next() {
        let queue = CoalescingQueue::new();
        let echo = PluginName::new("echo").expect("a name");
        let other = PluginName::new("other").expect("a name");
        assert_eq!(queue.submit(&echo, 1), Submission::Run(1));
        assert_eq!(queue.submit(&other, 9), Submission::Run(9));
        assert_eq!(queue.submit(&echo, 2), Submission::Queued);
        assert_eq!(queue.submit(&echo, 3), Submission::Replaced(2));
        assert_eq!(queue.submit_if_idle(&echo, 4), Submission::Replaced(4));
        assert_eq!(queue.done(&echo), Some(3));
        assert_eq!(queue.submit(&echo, 4), Submission::Queued);
        assert_eq!(queue.done(&echo), Some(4));
        assert_eq!(queue.done(&echo), None);
        assert_eq!(queue.submit(&echo, 5), Submission::Run(5));
        assert_eq!(queue.submit(&echo, 6), Submission::Queued);
        assert_eq!(queue.abandon(&echo), Some(6));
        assert_eq!(queue.submit(&echo, 7), Submission::Run(7));
    }
}
