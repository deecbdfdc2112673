//! Async methods without the feature `tokio`: a plugin cannot serve them.

use super::method::{Failed, ServesAsync};
use super::served::{ServedCall, ServedMethod};
use super::table::{RawCompletion, RawMethod, RawStr, RawTask};
use crate::PluginError;
use crate::context::RawContext;
use crate::export::{Failure, report_failure};
use crate::payload::RawBuffer;
use crate::root::{RawFault, RawInstance};

/// Returns the entry of a method that fails.
pub const fn entry_async<T: Sync + 'static, M: ServesAsync<T>, const LINKED: bool>() -> RawMethod {
    RawMethod {
        name: RawStr::new(M::SHAPE.name),
        hash: M::SHAPE.hash(),
        direct: None,
        serialized: None,
        start: Some(start),
        open: None,
    }
}

/// Returns a method of a program that fails.
pub const fn served_async<T: Sync + 'static, M: ServesAsync<T>>() -> ServedMethod<T> {
    let call =
        ServedCall::Value(|_, _, _, _| Err((Failed::Method, PluginError::new(501, NEEDS_TOKIO))));
    ServedMethod { name: M::SHAPE.name, hash: M::SHAPE.hash(), call }
}

const NEEDS_TOKIO: &str = "async methods need the feature `tokio` of `hotbay-plugin`, and Unix";

unsafe extern "C" fn start(
    _: RawInstance,
    _: *const RawContext<'_>,
    _: u32,
    _: RawBuffer,
    _: RawCompletion,
    _: *mut RawTask,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: the host passes a pointer that is valid to write.
    unsafe { report_failure(Failure::Error(PluginError::new(501, NEEDS_TOKIO)), fault) }
}
