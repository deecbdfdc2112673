//! Running what others wrote (tasks, wakers, destructors) so that its panics stop nothing here.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs it; a panic in it is told to the log and goes no further.
pub(super) fn drop_panic(run: impl FnOnce()) {
    if let Err(message) = catch_panic(run) {
        tracing::error!(message, "a waker or a destructor panicked in a pool");
    }
}

/// Runs it; a panic comes back as its message.
pub(super) fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_message)
}

/// The message of a panic.
pub(super) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let message = panic_text(&*payload).to_owned();
    // A payload that panics when dropped would end this thread, and its own payload may too.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    message
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(the payload is no text)")
}
