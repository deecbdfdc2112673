//! Async methods without the feature `tokio`: a plugin cannot serve them.

use super::method::ServesAsync;
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
    }
}

unsafe extern "C" fn start(
    _: RawInstance,
    _: *const RawContext<'_>,
    _: u32,
    _: RawBuffer,
    _: RawCompletion,
    _: *mut RawTask,
    fault: *mut RawFault,
) -> i32 {
    let message = "async methods need the feature `tokio` of `hotbay-plugin`, and Unix";
    // SAFETY: the host passes a pointer that is valid to write.
    unsafe { report_failure(Failure::Error(PluginError::new(501, message)), fault) }
}
