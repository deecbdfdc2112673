//! The schemas of a plugin, read and checked on a thread that a load leaves behind when it takes
//! longer than a start may take. Decides nothing about schemas.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Instant;

use super::LoaderContext;
use super::candidate::Candidate;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::sync::deadline_in;

/// Most abandoned checks of a host that still run. Each ends when its budget is used up.
const ABANDONED_MAX: usize = 4;

/// How many checks of a host were abandoned and still run.
#[derive(Clone, Debug, Default)]
pub(crate) struct AbandonedChecks(Arc<AtomicUsize>);

/// One check; counts as abandoned between its caller's end and its own.
struct Check {
    one_ended: AtomicBool,
    abandoned: AbandonedChecks,
}

impl Check {
    fn abandon(&self) {
        self.abandoned.0.fetch_add(1, Ordering::Relaxed);
        if self.one_ended.swap(true, Ordering::AcqRel) {
            self.abandoned.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        if self.one_ended.swap(true, Ordering::AcqRel) {
            self.abandoned.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs `check`, which is given the moment when it should end, and waits as long as a start may
/// take.
pub(super) fn within_start<T: Send + 'static>(
    workshop: &LoaderContext,
    candidate: &Candidate,
    check: impl FnOnce(&Candidate, Instant) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |kind, cause: &dyn fmt::Display| {
        Err(candidate.failed(LoadStep::Config, kind).caused_by(cause.to_string()))
    };
    let abandoned = &workshop.abandoned_checks;
    let running = abandoned.0.load(Ordering::Relaxed);
    if running >= ABANDONED_MAX {
        let cause = format!("{running} checks of schemas that took too long still run; try later");
        return failed(ErrorKind::Overloaded, &cause);
    }
    let wait_max = workshop.limits.start_timeout;
    let (sender, receiver) = sync_channel(1);
    let this = Arc::new(Check { one_ended: AtomicBool::new(false), abandoned: abandoned.clone() });
    let (other, theirs) = (Arc::clone(&this), candidate.clone());
    let spawned = std::thread::Builder::new().name("hotbay-check".to_owned()).spawn(move || {
        // After a panic the channel is closed without a result.
        let run = std::panic::AssertUnwindSafe(|| check(&theirs, deadline_in(wait_max)));
        if let Ok(checked) = std::panic::catch_unwind(run) {
            let _ = sender.send(checked);
        }
        other.end();
    });
    if let Err(error) = spawned {
        return failed(ErrorKind::Overloaded, &error);
    }
    match receiver.recv_timeout(wait_max) {
        Ok(checked) => checked,
        Err(RecvTimeoutError::Timeout) => {
            this.abandon();
            let cause = format!(
                "the check exceeded its budget of {wait_max:?}, which is `start_timeout`; use a \
                 smaller schema"
            );
            failed(ErrorKind::Config, &cause)
        }
        Err(RecvTimeoutError::Disconnected) => {
            failed(ErrorKind::Config, &"the check of its schemas panicked")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_counts_as_abandoned_until_it_ends() {
        let abandoned = AbandonedChecks::default();
        let new = || Check { one_ended: AtomicBool::new(false), abandoned: abandoned.clone() };
        let count = || abandoned.0.load(Ordering::Relaxed);
        let (first, second, third) = (new(), new(), new());
        first.abandon();
        second.end();
        assert_eq!(count(), 1);
        second.abandon();
        third.abandon();
        assert_eq!(count(), 2);
        first.end();
        third.end();
        assert_eq!(count(), 0);
    }
}
