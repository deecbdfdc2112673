//! Faults of application code that panics inside the host.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hotbay_plugin::Fault;

/// Converts the payload of a panic into a fault and drops it.
pub(crate) fn fault_of(payload: Box<dyn Any + Send>) -> Fault {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    let fault = Fault::new(text.unwrap_or("(no text)").to_owned(), None, Vec::new());
    // A payload may panic while it is dropped.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    fault
}
