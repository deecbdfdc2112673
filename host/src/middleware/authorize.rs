//! Rejects requests for an operation that the plugin has no permission for. Costs a null check if
//! the request names none, otherwise a lookup in a small set.

use std::sync::Arc;

use super::service::{Before, Middleware};
use crate::call::ReplySlot;
use crate::error::Error;
use crate::slot::{CallScope, PolicyRef, Slot};

#[derive(Debug)]
pub(crate) struct Authorize(pub(super) Arc<Slot>);

impl Middleware for Authorize {
    /// The policy that the call was checked against.
    type Guard<'c> = Option<PolicyRef<'c>>;

    #[inline]
    fn before<'c>(
        &'c self,
        scope: &CallScope<'c>,
        _: &mut ReplySlot,
    ) -> Result<Before<Self::Guard<'c>>, Error> {
        if scope.request.operation().is_none() {
            return Ok(Before::Continue(None));
        }
        let policy = self.0.policy_for(scope);
        let current = policy.get().ok_or_else(|| self.0.unloaded_error())?;
        current.check_operation(&self.0.name, scope.request)?;
        Ok(Before::Continue(Some(policy)))
    }

    #[inline]
    fn inner_scope<'c>(
        policy: &'c Self::Guard<'_>,
        scope: &CallScope<'c>,
    ) -> Option<CallScope<'c>> {
        Some(scope.checked_against(policy.as_ref()?.get()?))
    }
}
