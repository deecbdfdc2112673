//! The context of a call that is a future.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::TraceContext;
use crate::context::CallContext;
use crate::contract::CallLimits;

/// The context of one call of an [`AsyncPlugin`](crate::AsyncPlugin): id, trace, deadline and cancellation. Cheap to
/// clone; may be moved to other tasks and threads.
#[derive(Clone)]
pub struct AsyncContext(Arc<CallLimits>);

impl AsyncContext {
    pub(crate) fn new(limits: Arc<CallLimits>) -> Self {
        Self(limits)
    }

    fn query<R>(&self, query: impl FnOnce(CallContext<'_>) -> R) -> R {
        query(CallContext::new(&self.0.context()))
    }

    /// Returns the id of the call, unique in the host's process.
    pub fn call_id(&self) -> u64 {
        self.query(|context| context.call_id())
    }

    /// Returns the trace that the call belongs to, if the caller passed one.
    pub fn trace(&self) -> Option<TraceContext> {
        self.query(|context| context.trace())
    }

    /// Returns whether the caller cancelled the call or its deadline has passed. The future is then
    /// dropped at its next await, so only code that does not await needs to check this.
    pub fn is_cancelled(&self) -> bool {
        self.query(|context| context.is_cancelled())
    }

    /// Returns the time until the deadline: zero if it has passed, `None` if the call has none.
    pub fn remaining(&self) -> Option<Duration> {
        self.query(|context| context.remaining())
    }
}

impl fmt::Debug for AsyncContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.query(|context| {
            f.debug_struct("AsyncContext")
                .field("call_id", &context.call_id())
                .field("trace", &context.trace())
                .field("is_cancelled", &context.is_cancelled())
                .field("remaining", &context.remaining())
                .finish()
        })
    }
}
