//! A swap for plugins that own something exclusive, such as a port: the old build is stopped,
//! then the new one started; if that fails, the old build is started again.

use std::sync::Arc;

use super::Workshop;
use super::candidate::Candidate;
use super::carry_out::{Swapped, not_drained, snapshot};
use super::load::{Fresh, Source, Until};
use crate::error::{Error, ErrorKind};
use crate::generation::retire::{self, Stopped};
use crate::manifest::Manifest;
use crate::slot::Slot;

pub(super) fn swap(
    workshop: &Workshop,
    slot: &Arc<Slot>,
    before: &Manifest,
    next: &Candidate,
) -> Result<Swapped, Error> {
    let Some(paused) = slot.pause() else { return Err(slot.retired()) };
    let token = match slot.drain(&paused, workshop.limits.pause_wait_max) {
        Ok(token) => token,
        Err(held) => {
            slot.resume(paused, None);
            return Err(not_drained(workshop, next, held));
        }
    };
    let state = match snapshot(workshop, next, &token) {
        Ok(state) => state,
        Err(error) => {
            slot.resume(paused, Some(token));
            return Err(error);
        }
    };
    let generation = Arc::clone(token.generation());
    drop(token);
    let stopped = retire::stop(&generation, &workshop.limits, &workshop.keeper);
    let until = || Until::Ready(state.clone());
    let error = match Fresh::start(workshop, next, Source::Library, slot, until()) {
        Ok(fresh) => {
            let (token, build) = fresh.into_token();
            let _ = slot.promote(token);
            if let Some(stopped) = stopped {
                retire::finish(&generation, stopped, &workshop.keeper);
            }
            return Ok(Swapped { build, before: None });
        }
        Err(error) => error,
    };
    let again = Candidate::compiled_in(before.clone());
    let Some(Stopped { image, root, reason: keep }) = stopped else {
        let _ = slot.vacate();
        return Err(lost(slot, "the old build could not be stopped").caused_by(error));
    };
    match Fresh::start(workshop, &again, Source::Mapped { image, root, keep }, slot, until()) {
        Ok(fresh) => {
            let (token, _) = fresh.into_token();
            let _ = slot.promote(token);
            Err(error)
        }
        Err(second) => {
            let _ = slot.vacate();
            let message = format!("the old build did not start again ({})", second.full_message());
            Err(lost(slot, &message).caused_by(error))
        }
    }
}

fn lost(slot: &Slot, why: &str) -> Error {
    Error::new(ErrorKind::Start, format!("serves no more: {why}; load it again")).of(&slot.name)
}
