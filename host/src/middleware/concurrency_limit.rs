//! Limits the number of concurrent calls (`limits.in_flight`). Costs one load without a limit; with
//! one, all callers share a counter.

use std::sync::Arc;

use super::service::{Before, Middleware};
use crate::call::ReplySlot;
use crate::error::Error;
use crate::slot::{CallScope, InFlightGuard, Slot};

#[derive(Debug)]
pub(crate) struct ConcurrencyLimit(pub(super) Arc<Slot>);

impl Middleware for ConcurrencyLimit {
    type Guard<'c> = Option<InFlightGuard>;

    #[inline]
    fn before<'c>(
        &'c self,
        scope: &CallScope<'c>,
        _: &mut ReplySlot,
    ) -> Result<Before<Self::Guard<'c>>, Error> {
        // The calls of a batch were counted together.
        if !self.0.limits_in_flight() || scope.batch_slot.is_some() {
            return Ok(Before::Continue(None));
        }
        self.0.enter_in_flight().map(Before::Continue)
    }
}
