//! One job at a time for a plugin; of the requests that wait for it, the latest wins.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::id::PluginName;
use crate::sync::lock;

/// Who works for which plugin, and who waits.
pub(crate) struct CoalescingQueue<R> {
    jobs: Mutex<HashMap<PluginName, Option<R>>>,
    ended: Condvar,
}

/// What is to be done about a request.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Submission<R> {
    /// Begin with it.
    Run(R),
    /// It waits until the job that runs is done.
    Queued,
    /// It waits, in the place of this one.
    Replaced(R),
}

impl<R> CoalescingQueue<R> {
    pub(crate) fn new() -> Self {
        Self { jobs: Mutex::default(), ended: Condvar::new() }
    }

    /// Takes a request for `plugin`.
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

    /// Takes a request unless one waits already; answers with it then.
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

    /// A job is done; answers with the request that is to be begun now.
    #[must_use]
    pub(crate) fn done(&self, plugin: &PluginName) -> Option<R> {
        let mut jobs = lock(&self.jobs);
        let next = jobs.get_mut(plugin).and_then(Option::take);
        if next.is_none() {
            jobs.remove(plugin);
            self.ended.notify_all();
        }
        next
    }

    /// Waits until nobody works for `plugin`, at most until `deadline`.
    pub(crate) fn wait(&self, plugin: &PluginName, deadline: Instant) {
        let jobs = lock(&self.jobs);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.ended.wait_timeout_while(jobs, left, |jobs| jobs.contains_key(plugin));
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
    fn one_job_runs_and_the_latest_request_is_the_next() {
        let desk = CoalescingQueue::new();
        let echo = PluginName::new("echo").expect("a name");
        let other = PluginName::new("other").expect("a name");
        assert_eq!(desk.submit(&echo, 1), Submission::Run(1));
        assert_eq!(desk.submit(&other, 9), Submission::Run(9));
        assert_eq!(desk.submit(&echo, 2), Submission::Queued);
        assert_eq!(desk.submit(&echo, 3), Submission::Replaced(2));
        assert_eq!(desk.submit_if_idle(&echo, 4), Submission::Replaced(4));
        assert_eq!(desk.done(&echo), Some(3));
        assert_eq!(desk.submit(&echo, 4), Submission::Queued);
        assert_eq!(desk.done(&echo), Some(4));
        assert_eq!(desk.done(&echo), None);
        assert_eq!(desk.submit(&echo, 5), Submission::Run(5));
    }
}
