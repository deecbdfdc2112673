//! Catches panics of code that must not unwind into its caller: the author's code, services of the
//! host, and destructors of panic payloads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{mem, thread};

/// Runs `body`; returns the payload of a panic as an error.
#[inline]
pub(crate) fn catch_panic<T>(body: impl FnOnce() -> T) -> thread::Result<T> {
    catch_unwind(AssertUnwindSafe(body))
}

/// Runs `body`; drops the payload of a panic and returns `None` for it.
pub(crate) fn drop_panic<T>(body: impl FnOnce() -> T) -> Option<T> {
    let payload = match catch_panic(body) {
        Ok(value) => return Some(value),
        Err(payload) => payload,
    };
    // A payload may panic while it is dropped, and so may the payload of that panic.
    if let Err(second) = catch_panic(|| drop(payload)) {
        mem::forget(second);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsOnDrop(u32);

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            if let Some(left) = self.0.checked_sub(1) {
                std::panic::resume_unwind(Box::new(Self(left)));
            }
        }
    }

    #[test]
    fn payload_that_panics_on_drop_does_not_unwind() {
        assert_eq!(drop_panic(|| 7), Some(7));
        for panics in 0..3 {
            let payload = Box::new(PanicsOnDrop(panics));
            assert_eq!(drop_panic(|| std::panic::resume_unwind(payload)), None::<()>);
        }
    }
}
