//! One job at a time for a plugin; of the requests that wait for it, the latest wins.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::id::PluginName;
use crate::sync::lock;

/// Who works for which plugin, and who waits.
pub(crate) struct Desk<R> {
    jobs: Mutex<HashMap<PluginName, Option<R>>>,
    ended: Condvar,
}

/// What is to be done about a request.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken<R> {
    /// Begin with it.
    Begin(R),
    /// It waits until the job that runs is done.
    Waits,
    /// It waits, in the place of this one.
    Instead(R),
}

impl<R> Desk<R> {
    pub(crate) fn new() -> Self {
        Self { jobs: Mutex::default(), ended: Condvar::new() }
    }

    /// Takes a request for `plugin`.
    pub(crate) fn take(&self, plugin: &PluginName, request: R) -> Taken<R> {
        let mut jobs = lock(&self.jobs);
        match jobs.get_mut(plugin) {
            None => {
                jobs.insert(plugin.clone(), None);
                Taken::Begin(request)
            }
            Some(waiting) => waiting.replace(request).map_or(Taken::Waits, Taken::Instead),
        }
    }

    /// Takes a request unless one waits already; answers with it then.
    pub(crate) fn offer(&self, plugin: &PluginName, request: R) -> Taken<R> {
        let mut jobs = lock(&self.jobs);
        match jobs.get_mut(plugin) {
            Some(Some(_)) => Taken::Instead(request),
            Some(waiting) => {
                *waiting = Some(request);
                Taken::Waits
            }
            None => {
                jobs.insert(plugin.clone(), None);
                Taken::Begin(request)
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

impl<R> fmt::Debug for Desk<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("plugins", &lock(&self.jobs).len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_job_runs_and_the_latest_request_is_the_next() {
        let desk = Desk::new();
        let echo = PluginName::new("echo").expect("a name");
        let other = PluginName::new("other").expect("a name");
        assert_eq!(desk.take(&echo, 1), Taken::Begin(1));
        assert_eq!(desk.take(&other, 9), Taken::Begin(9));
        assert_eq!(desk.take(&echo, 2), Taken::Waits);
        assert_eq!(desk.take(&echo, 3), Taken::Instead(2));
        assert_eq!(desk.offer(&echo, 4), Taken::Instead(4));
        assert_eq!(desk.done(&echo), Some(3));
        assert_eq!(desk.take(&echo, 4), Taken::Waits);
        assert_eq!(desk.done(&echo), Some(4));
        assert_eq!(desk.done(&echo), None);
        assert_eq!(desk.take(&echo, 5), Taken::Begin(5));
    }
}
