//! Runs code of the application, stores and wakers, of which a panic must go no further.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// How such code ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Returned,
    Panicked,
}

pub(super) fn survives(work: impl FnOnce()) -> Ended {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => Ended::Returned,
        Err(panic) => {
            // To drop what it carries may panic too, and what comes of that is not touched.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
                std::mem::forget(second);
            }
            Ended::Panicked
        }
    }
}
