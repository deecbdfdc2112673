//! Runs code that may panic (of plugins compiled in, of the application, of wakers and
//! destructors) so that a panic goes no further.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hotbay_plugin::Fault;

/// Runs `run` and returns the message of a panic as an error.
pub(crate) fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_message)
}

/// Runs `run`; logs a panic and returns `None` for it.
pub(crate) fn drop_panic<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_panic(run)
        .inspect_err(|message| tracing::error!(message, "a callback, waker or destructor panicked"))
        .ok()
}

/// Runs `run` and returns a panic as a fault.
pub(crate) fn catch_fault<T>(run: impl FnOnce() -> T) -> Result<T, Fault> {
    catch_panic(run).map_err(|message| Fault::new(message, None, Vec::new()))
}

/// Returns the message of a panic and drops its payload.
pub(crate) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    let message = text.unwrap_or("(panic payload is not a string)").to_owned();
    // A payload may panic while it is dropped, and so may the payload of that panic.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    message
}
