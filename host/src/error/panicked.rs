//! What is left when code of the application panics inside the host: a fault to be told.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hotbay_plugin::Fault;

/// The fault that a panic's payload tells of; the payload ends here.
pub(crate) fn fault_of(payload: Box<dyn Any + Send>) -> Fault {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    let fault = Fault::new(text.unwrap_or("(no text)").to_owned(), None, Vec::new());
    // What a payload's own drop throws is dropped by nobody.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    fault
}
