//! The brief path of a call on the caller's thread, which skips the middleware. The request borrows
//! its input and has no option but a deadline. The plugin is healthy, runs in this process, and needs
//! no middleware. The call is counted and leases the plugin, as in the middleware. All other calls go
//! through the middleware; so does one in 64, which is timed there.

use std::mem;
use std::time::Instant;

use hotbay_plugin::abi::RawPayload;
use tracing::Level;

use super::Inner;
use crate::call::{Reply, ReplySlot, Request};
use crate::error::Error;
use crate::generation::{InstanceRef, next_call_id};
use crate::middleware::is_sampled;
use crate::slot::{Admission, CallScope, SyncService as _};
use crate::sync::{has_passed, owned_shard};

impl Inner {
    /// Makes a call, under the lease `pin` if there is one.
    ///
    /// Always inlined, so that a request that owns nothing is never stored, and the plugin writes
    /// the reply into the caller's frame.
    #[inline(always)]
    pub(super) fn call(
        &self,
        request: Request<'_>,
        pin: Option<&InstanceRef>,
    ) -> Result<Reply, Error> {
        let mut reply = ReplySlot::new();
        let outcome = match (request.brief_input(), request.deadline()) {
            (Some(input), deadline) => {
                // It owns nothing, but the compiler does not see that.
                mem::forget(request);
                match (deadline, pin) {
                    (None, None) => self.call_brief(&input, &mut reply),
                    (None, Some(pin)) => self.call_pinned(&input, pin, &mut reply),
                    (Some(deadline), pin) => {
                        self.call_with_deadline(&input, deadline, pin, &mut reply)
                    }
                }
            }
            (None, _) => self.call_in_full(&request, pin, next_call_id(), &mut reply),
        };
        match outcome {
            Ok(()) => Ok(reply.take()),
            Err(error) => Err(discard(reply, error)),
        }
    }

    /// Calls the current instance.
    #[inline(never)]
    fn call_brief(&self, input: &RawPayload<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        self.try_brief(input, None, None, reply)
    }

    /// Calls a pinned instance.
    #[inline(never)]
    fn call_pinned(
        &self,
        input: &RawPayload<'_>,
        pin: &InstanceRef,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        self.try_brief(input, None, Some(pin), reply)
    }

    #[inline(never)]
    fn call_with_deadline(
        &self,
        input: &RawPayload<'_>,
        deadline: Instant,
        pin: Option<&InstanceRef>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        self.try_brief(input, Some(deadline), pin, reply)
    }

    #[inline(always)]
    fn try_brief(
        &self,
        input: &RawPayload<'_>,
        deadline: Option<Instant>,
        pin: Option<&InstanceRef>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        let call_id = next_call_id();
        if !self.is_brief(call_id) || deadline.is_some_and(has_passed) {
            return self.call_unusual(input, deadline, pin, call_id, reply);
        }
        // The few threads that share a shard take the other path; so does the first call of a thread.
        let Some(shard) = owned_shard() else {
            return self.call_unusual(input, deadline, pin, call_id, reply);
        };
        let outcome = match pin {
            Some(instance) if !instance.generation().is_current() => None,
            Some(instance) => instance.call_brief(call_id, input, deadline, reply),
            None => match self.slot.try_current(shard) {
                Some(instance) => instance.call_brief(call_id, input, deadline, reply),
                None => None,
            },
        };
        let Some(outcome) = outcome else {
            return self.call_unusual(input, deadline, pin, call_id, reply);
        };
        self.slot.count_call(shard);
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => self.record_failure(input, deadline, pin, call_id, error),
        }
    }

    /// Returns whether nothing but the plugin has to be called.
    #[inline(always)]
    pub(super) fn is_brief(&self, call_id: u64) -> bool {
        self.process.is_current()
            && !tracing::level_enabled!(Level::DEBUG)
            && self.slot.brief_path_ok()
            && !is_sampled(call_id)
    }

    #[cold]
    #[inline(never)]
    fn call_unusual(
        &self,
        input: &RawPayload<'_>,
        deadline: Option<Instant>,
        pin: Option<&InstanceRef>,
        call_id: u64,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        self.call_in_full(&Request::of_brief(input, deadline), pin, call_id, reply)
    }

    #[inline(never)]
    pub(super) fn call_in_full(
        &self,
        request: &Request<'_>,
        pin: Option<&InstanceRef>,
        call_id: u64,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        self.check_process()?;
        if let Some(pin) = pin
            && !pin.generation().is_current()
        {
            return Err(self.not_current(pin));
        }
        self.stack.call(&CallScope::inline(request, pin, call_id), reply)
    }

    #[cold]
    #[inline(never)]
    fn record_failure(
        &self,
        input: &RawPayload<'_>,
        deadline: Option<Instant>,
        pin: Option<&InstanceRef>,
        call_id: u64,
        error: Error,
    ) -> Result<(), Error> {
        let request = Request::of_brief(input, deadline);
        let scope = CallScope::inline(&request, pin, call_id);
        self.slot.counters.count_error(&scope, &error);
        let outcome = Err(error);
        self.slot.record_outcome(Admission::Normal, &scope, &outcome);
        outcome
    }
}

/// Drops what a failed call left in `reply`, such as an output that is too large.
#[cold]
#[inline(never)]
fn discard(reply: ReplySlot, error: Error) -> Error {
    drop(reply);
    error
}
