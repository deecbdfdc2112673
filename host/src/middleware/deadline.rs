//! Rejects calls that were cancelled or whose deadline has passed. Costs two loads if the request
//! has neither token nor deadline, and reads the clock if it has a deadline.

use std::sync::Arc;

use super::service::{Before, Middleware};
use crate::call::ReplySlot;
use crate::error::Error;
use crate::slot::{CallScope, Slot};

#[derive(Debug)]
pub(crate) struct Deadline(pub(super) Arc<Slot>);

impl Middleware for Deadline {
    type Guard<'c> = ();

    #[inline]
    fn before<'c>(&'c self, scope: &CallScope<'c>, _: &mut ReplySlot) -> Result<Before<()>, Error> {
        if scope.request.is_bounded() {
            self.0.check_active(scope.request)?;
        }
        Ok(Before::Continue(()))
    }
}
