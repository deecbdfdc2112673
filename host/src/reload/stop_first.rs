//! A swap for plugins that own something exclusive, such as a port: the old build is stopped,
//! then the new one started; if that fails, the old build is started again.

use std::sync::Arc;

use super::LoaderContext;
use super::candidate::Candidate;
use super::load::{NewGeneration, Until};
use super::source::Source;
use super::swap::{Swapped, drain_timeout_error, snapshot, undrained_error};
use crate::error::{Error, ErrorKind};
use crate::generation::UnloadLeftovers;
use crate::generation::unload::{self, Stopped};
use crate::manifest::Manifest;
use crate::slot::Slot;

pub(super) fn swap(
    workshop: &LoaderContext,
    slot: &Arc<Slot>,
    before: &Manifest,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    let Some(paused) = slot.pause() else { return Err(slot.unloaded_error()) };
    let token = match slot.drain(&paused, workshop.limits.pause_timeout) {
        Ok(token) => token,
        Err(held) => {
            slot.resume(paused, None);
            return Err(undrained_error(workshop, next, held));
        }
    };
    let state = match snapshot(workshop, next, &token) {
        Ok(state) => state,
        Err(error) => {
            slot.resume(paused, Some(token));
            return Err(error);
        }
    };
    // Before the token goes, so that nobody else ends it meanwhile.
    let taken_out = slot.take_paused(&paused);
    drop(token);
    let generation = taken_out?;
    let stopped = unload::stop(&generation, &workshop.limits, &workshop.keeper);
    // From here on nothing of the old build serves.
    let mut next = next.clone();
    next.serving = None;
    let until = || Until::Ready(state.clone());
    let error = match NewGeneration::start(workshop, &next, source, slot, until()) {
        Ok(fresh) => {
            let (token, build) = fresh.into_instance();
            let promoted = slot.promote(token);
            if let Ok(stopped) = stopped {
                unload::close_or_retain(&generation, stopped, &workshop.keeper);
            }
            return match promoted {
                Ok(_) => Ok(Swapped { build, before: None }),
                Err(late) => Err(drain_timeout_error(workshop, slot, late)),
            };
        }
        Err(error) => error,
    };
    let again = Candidate::compiled_in(before.clone());
    let Ok(Stopped { leftovers: remains, reason: keep, .. }) = stopped else {
        let _ = slot.vacate();
        return Err(lost(slot, "the old build could not be stopped").caused_by(error));
    };
    let terms = Arc::clone(&generation.policy);
    let source = match remains {
        UnloadLeftovers::Library(image, root) => Source::Mapped { image, root, keep, terms },
        #[cfg(unix)]
        UnloadLeftovers::Process(program) => Source::Again { program, terms },
    };
    match NewGeneration::start(workshop, &again, source, slot, until()) {
        Ok(fresh) => {
            let (token, _) = fresh.into_instance();
            let generation = token.generation().id;
            match slot.promote(token) {
                Ok(_) => Err(error.started_again(generation)),
                Err(late) => Err(drain_timeout_error(workshop, slot, late)),
            }
        }
        Err(second) => {
            let _ = slot.vacate();
            let message = format!("the old build did not start again ({})", second.full_message());
            Err(lost(slot, &message).caused_by(error))
        }
    }
}

fn lost(slot: &Slot, why: &str) -> Error {
    Error::new(ErrorKind::StartFailed, format!("serves no more: {why}; load it again"))
        .of(&slot.name)
}
