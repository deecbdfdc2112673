//! A swap for plugins that own something exclusive, such as a port: the old build is stopped, then
//! the new one is started. If that fails, the old build is restarted.

use std::sync::Arc;

use hotbay_manifest::Manifest;

use super::LoaderContext;
use super::candidate::Candidate;
use super::load::{NewGeneration, Until};
use super::source::Source;
use super::swap::{Swapped, drain_timeout_error, snapshot, undrained_error};
use crate::error::{Error, ErrorKind};
use crate::generation::UnloadLeftovers;
use crate::generation::unload::{self, Stopped};
use crate::slot::Slot;

pub(super) fn swap(
    context: &LoaderContext,
    slot: &Arc<Slot>,
    previous: &Manifest,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    let Some(paused) = slot.pause() else { return Err(slot.unloaded_error()) };
    let instance = match slot.drain(&paused, context.limits.pause_timeout) {
        Ok(instance) => instance,
        Err(active) => {
            slot.resume(paused, None);
            return Err(undrained_error(context, next, active));
        }
    };
    let state = match snapshot(context, next, &instance) {
        Ok(state) => state,
        Err(error) => {
            slot.resume(paused, Some(instance));
            return Err(error);
        }
    };
    // Before the lease ends, so that no unload stops the generation meanwhile.
    let generation = slot.take_paused(&paused);
    drop(instance);
    let generation = generation?;
    let stopped = unload::stop(&generation, &context.limits, &context.deferred_unloads);
    // From here on the old build does not serve.
    let mut next = next.clone();
    next.serving = None;
    let until = || Until::Ready(state.clone());
    let error = match NewGeneration::start(context, &next, source, slot, until()) {
        Ok(new_generation) => {
            let (instance, build) = new_generation.into_instance();
            let promoted = slot.promote(instance);
            if let Ok(stopped) = stopped {
                unload::close_or_retain(&generation, stopped, &context.deferred_unloads);
            }
            return match promoted {
                Ok(_) => Ok(Swapped { build, previous: None }),
                Err(rejected) => Err(drain_timeout_error(context, slot, rejected)),
            };
        }
        Err(error) => error,
    };
    let old = Candidate::compiled_in(previous.clone());
    let Ok(Stopped { leftovers, reason: retain_reason, .. }) = stopped else {
        let _ = slot.vacate();
        return Err(not_restored_error(slot, "the old build could not be stopped").caused_by(error));
    };
    let policy = Arc::clone(&generation.policy);
    let source = match leftovers {
        UnloadLeftovers::Library(image, root) => {
            Source::Mapped { image, root, retain_reason, policy }
        }
        #[cfg(all(unix, feature = "process"))]
        UnloadLeftovers::Process(program) => Source::Restart { program, policy },
    };
    match NewGeneration::start(context, &old, source, slot, until()) {
        Ok(new_generation) => {
            let (instance, _) = new_generation.into_instance();
            let generation = instance.generation().id;
            match slot.promote(instance) {
                Ok(_) => Err(error.started_again(generation)),
                Err(rejected) => Err(drain_timeout_error(context, slot, rejected)),
            }
        }
        Err(second) => {
            let _ = slot.vacate();
            let message = format!("the old build failed to restart ({})", second.full_message());
            Err(not_restored_error(slot, &message).caused_by(error))
        }
    }
}

fn not_restored_error(slot: &Slot, why: &str) -> Error {
    Error::new(ErrorKind::StartFailed, format!("is no longer loaded: {why}"))
        .of(&slot.name)
        .with_hint("load the plugin again")
}
