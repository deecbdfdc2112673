//! The arguments of a call, and its limits.

use std::time::{Duration, Instant};

use hotbay_plugin::CallContext;
use hotbay_plugin::abi::{Bounds, RawContext};
use tokio_util::sync::CancellationToken;

use crate::call::{CallState, Request};

/// The arguments of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallArgs<'v> {
    pub(crate) request: &'v Request<'v>,
    /// State shared with the caller, if others may complete the call.
    pub(crate) state: Option<&'v CallState>,
    pub(crate) call_id: u64,
}

/// The time limit and cancellation of a call, as its plugin can query them.
pub(super) struct CallBounds<'v> {
    pub(super) deadline: Option<Instant>,
    pub(super) token: Option<&'v CancellationToken>,
    pub(super) state: Option<&'v CallState>,
    /// The call that the calling plugin serves on this thread.
    pub(super) outer: Option<CallContext<'v>>,
    /// Whether a plugin or a service makes the call. Then the plugin called gets these bounds in any case: it
    /// passes their context on when it calls others.
    pub(super) is_chained: bool,
}

impl CallBounds<'_> {
    /// Returns the context of a call with these bounds.
    #[inline(always)]
    pub(super) fn context(&self, call_id: u64) -> RawContext<'_> {
        let context = RawContext::new(call_id);
        let is_unbounded = self.deadline.is_none() && self.token.is_none() && self.state.is_none();
        if is_unbounded && !self.is_chained {
            return context;
        }
        context.with_bounds(self)
    }
}

impl Bounds for CallBounds<'_> {
    fn is_cancelled(&self) -> bool {
        self.state.is_some_and(|state| !state.is_active())
            || self.token.is_some_and(CancellationToken::is_cancelled)
            || self.outer.is_some_and(|outer| outer.is_cancelled())
            || self.remaining().is_some_and(|left| left.is_zero())
    }

    fn remaining(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

/// Waits until a call that the plugin serves on this thread is cancelled. At its deadline, the wait
/// for the process ends by itself.
#[cfg(all(unix, feature = "process"))]
pub(super) async fn outer_cancelled(outer: CallContext<'_>) {
    while !outer.is_cancelled() || outer.remaining().is_some_and(|left| left.is_zero()) {
        hotbay_plugin::wire::sleep_until(Instant::now() + hotbay_plugin::abi::CANCEL_INTERVAL)
            .await;
    }
}
