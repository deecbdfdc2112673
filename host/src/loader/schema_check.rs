//! Reads and checks the schemas of a plugin on a thread, which a load abandons if it takes longer
//! than a start may take. Knows nothing about schemas.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Instant;

use super::candidate::Candidate;
use super::context::{AbandonedChecks, LoaderContext};
use crate::error::{Error, ErrorKind, LoadStep};
use crate::panic::catch_panic;
use crate::sync::deadline_in;

/// Maximum number of abandoned checks of a host. Each ends when its budget is used up.
const MAX_ABANDONED: usize = 4;

/// One check. It counts as abandoned from the end of its caller to its own end.
struct Check {
    has_one_ended: AtomicBool,
    abandoned: AbandonedChecks,
}

impl Check {
    fn abandon(&self) {
        self.abandoned.0.fetch_add(1, Ordering::Relaxed);
        if self.has_one_ended.swap(true, Ordering::AcqRel) {
            self.abandoned.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        if self.has_one_ended.swap(true, Ordering::AcqRel) {
            self.abandoned.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Runs `check` with the deadline by which it should end, and waits for it at most as long as a
/// start may take.
pub(super) fn run_check<T: Send + 'static>(
    context: &LoaderContext,
    candidate: &Candidate,
    check: impl FnOnce(&Candidate, Instant) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |kind, cause: &dyn fmt::Display| {
        Err(candidate.failed(LoadStep::Config, kind).caused_by(cause.to_string()))
    };
    let abandoned = &context.abandoned_checks;
    let running = abandoned.0.load(Ordering::Relaxed);
    if running >= MAX_ABANDONED {
        let cause = format!("{running} abandoned schema checks are still running");
        return failed(ErrorKind::Overloaded, &cause)
            .map_err(|error| error.with_hint("retry later"));
    }
    let timeout = context.limits.start_timeout;
    let (sender, receiver) = sync_channel(1);
    let this =
        Arc::new(Check { has_one_ended: AtomicBool::new(false), abandoned: abandoned.clone() });
    let (other, theirs) = (Arc::clone(&this), candidate.clone());
    let spawned = std::thread::Builder::new().name("hotbay-check".to_owned()).spawn(move || {
        // After a panic the channel is closed without a result.
        if let Ok(checked) = catch_panic(|| check(&theirs, deadline_in(timeout))) {
            let _ = sender.send(checked);
        }
        other.end();
    });
    if let Err(error) = spawned {
        return failed(ErrorKind::Overloaded, &error);
    }
    match receiver.recv_timeout(timeout) {
        Ok(checked) => checked,
        Err(RecvTimeoutError::Timeout) => {
            this.abandon();
            let cause =
                format!("the schema check did not finish within `start_timeout`, {timeout:?}");
            failed(ErrorKind::Config, &cause)
                .map_err(|error| error.with_hint("use a smaller schema"))
        }
        Err(RecvTimeoutError::Disconnected) => {
            failed(ErrorKind::Config, &"the schema check panicked")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_counts_as_abandoned_until_it_ends() {
        let abandoned = AbandonedChecks::default();
        let new = || Check { has_one_ended: AtomicBool::new(false), abandoned: abandoned.clone() };
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
