//! Performs a swap, step by step: the new build starts next to the old one, takes its state, and
//! is promoted. If an earlier step fails, the old build keeps serving. For plugins that own something
//! exclusive, such as a port, the old build is stopped first, and restarted after a failure.

use std::sync::Arc;

use hotbay_manifest::{Handover, Manifest};
use hotbay_plugin::Snapshot;

use super::candidate::Candidate;
use super::context::LoaderContext;
use super::load::{Build, NewGeneration, Source};
use super::start::Until;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::unload::{Stopped, unload};
use crate::generation::{Generation, InstanceRef, UnloadLeftovers, unload};
use crate::slot::Slot;
use crate::worker::RunOutcome;

/// A completed swap.
#[derive(Debug)]
pub(crate) struct Swapped {
    pub(crate) build: Build,
    /// The previous generation, which drains; `None` if it was stopped first.
    pub(crate) previous: Option<Arc<Generation>>,
}

/// Replaces the current generation of `slot` by `next`, whose code comes from `source`.
pub(crate) fn swap(
    context: &LoaderContext,
    slot: &Arc<Slot>,
    previous: &Manifest,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    match handover(slot, next) {
        Handover::Overlap => overlap(context, slot, next, source),
        Handover::Pause => pause(context, slot, next, source),
        Handover::StopFirst => stop_first(context, slot, previous, next, source),
    }
}

/// Returns how the next build takes over: a build with a fixed socket is stopped first.
fn handover(slot: &Slot, next: &Candidate) -> Handover {
    let requested = next.manifest.handover();
    let fixed = slot.pin().ok().and_then(|instance| instance.fixed_socket());
    let Some(socket) = fixed.filter(|_| requested != Handover::StopFirst) else { return requested };
    tracing::info!(
        plugin = %slot.name, socket = %socket.display(), %requested,
        "the current build listens on a fixed socket: using the handover `stop-first`"
    );
    Handover::StopFirst
}

/// Keeps the old build serving until the new one is ready; changes after its snapshot are lost.
fn overlap(
    context: &LoaderContext,
    slot: &Arc<Slot>,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    let new_generation = NewGeneration::start(context, next, source, slot, Until::Started)?;
    let state = match slot.pin().and_then(|instance| snapshot(context, next, &instance)) {
        Ok(state) => state,
        Err(error) => {
            new_generation.abort(context, next);
            return Err(error);
        }
    };
    let (instance, build) = new_generation.ready(context, next, state)?;
    match slot.promote(instance) {
        Ok(previous) => Ok(Swapped { build, previous }),
        Err(rejected) => Err(drain_timeout_error(context, slot, rejected)),
    }
}

/// Makes calls wait while the state moves, so no change is lost.
fn pause(
    context: &LoaderContext,
    slot: &Arc<Slot>,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    let new_generation = NewGeneration::start(context, next, source, slot, Until::Started)?;
    let Some(paused) = slot.pause() else {
        new_generation.abort(context, next);
        return Err(slot.unloaded_error());
    };
    let previous = match slot.drain(&paused, context.limits.pause_timeout) {
        Ok(instance) => instance,
        Err(active) => {
            slot.resume(paused, None);
            new_generation.abort(context, next);
            return Err(undrained_error(context, next, active));
        }
    };
    let swapped = match snapshot(context, next, &previous) {
        Ok(state) => new_generation.ready(context, next, state),
        Err(error) => {
            new_generation.abort(context, next);
            Err(error)
        }
    };
    match swapped {
        Ok((instance, build)) => {
            if let Err(rejected) = slot.promote(instance) {
                // The unload that ran meanwhile stops the previous generation.
                drop(previous);
                return Err(drain_timeout_error(context, slot, rejected));
            }
            let generation = Arc::clone(previous.generation());
            generation.set_current(false);
            // Returns the instance to the unload of its generation.
            drop(previous);
            Ok(Swapped { build, previous: Some(generation) })
        }
        Err(error) => {
            slot.resume(paused, Some(previous));
            Err(error)
        }
    }
}

/// Takes the state of a generation, on a separate thread.
pub(super) fn snapshot(
    context: &LoaderContext,
    next: &Candidate,
    instance: &Arc<InstanceRef>,
) -> Result<Option<Snapshot>, Error> {
    let failed = || next.failed(LoadStep::Snapshot, ErrorKind::StartFailed);
    let timeout = context.limits.start_timeout;
    let state = match instance.call_within(timeout, |backend| backend.snapshot()) {
        RunOutcome::Completed(state) => state.map_err(|error| failed().caused_by(error))?,
        RunOutcome::TimedOut => {
            let message = format!("the snapshot did not finish within {} ms", timeout.as_millis());
            return Err(failed().caused_by(message));
        }
        RunOutcome::SpawnFailed(error) => return Err(failed().caused_by(error)),
    };
    let max_bytes = context.limits.max_snapshot_bytes;
    match &state {
        Some(state) if state.as_bytes().len() as u64 > max_bytes => {
            let found = state.as_bytes().len();
            let message = format!("the snapshot has {found} bytes; the limit is {max_bytes}");
            Err(failed().caused_by(message))
        }
        _ => Ok(state),
    }
}

/// Stops a generation whose plugin was unloaded before it could serve.
pub(super) fn drain_timeout_error(
    context: &LoaderContext,
    slot: &Slot,
    instance: Arc<InstanceRef>,
) -> Error {
    let generation = Arc::clone(instance.generation());
    drop(instance);
    let limits = &context.limits;
    unload(&generation, limits.drain_timeout, limits, &context.deferred_unloads);
    slot.unloaded_error()
}

pub(super) fn undrained_error(context: &LoaderContext, next: &Candidate, active: usize) -> Error {
    let timeout_ms = context.limits.pause_timeout.as_millis();
    let message =
        format!("calls or pins were still active after {timeout_ms} ms (active: {active})");
    next.failed(LoadStep::Drain, ErrorKind::Overloaded).caused_by(message)
}

/// Stops the old build, then starts the new one. If that fails, restarts the old build.
fn stop_first(
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
