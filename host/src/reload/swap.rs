//! Carries a swap out, step by step: the new build starts beside the old one, takes its state,
//! and is promoted. Whatever fails before that leaves the old one serving.

use std::sync::Arc;

use hotbay_plugin::Snapshot;

use super::LoaderContext;
use super::candidate::Candidate;
use super::load::{Build, NewGeneration, Until};
use super::source::Source;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::unload::unload;
use crate::generation::{Generation, InstanceRef};
use crate::manifest::{Handover, Manifest};
use crate::pool::RunOutcome;
use crate::slot::Slot;

/// A swap that was done.
#[derive(Debug)]
pub(crate) struct Swapped {
    pub(crate) build: Build,
    /// What served before, which drains; none where it was stopped first.
    pub(crate) before: Option<Arc<Generation>>,
}

/// Replaces what serves in `slot` by `next`, whose code comes from `source`.
pub(crate) fn swap(
    workshop: &LoaderContext,
    slot: &Arc<Slot>,
    before: &Manifest,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    match handover(slot, next) {
        Handover::Overlap => overlap(workshop, slot, next, source),
        Handover::Pause => pause(workshop, slot, next, source),
        Handover::StopFirst => super::stop_first::swap(workshop, slot, before, next, source),
    }
}

/// How the next build takes over: one that listens at a fixed place is stopped first.
fn handover(slot: &Slot, next: &Candidate) -> Handover {
    let wanted = next.manifest.handover();
    let fixed = slot.pin().ok().and_then(|token| token.fixed_socket());
    let Some(socket) = fixed.filter(|_| wanted != Handover::StopFirst) else { return wanted };
    tracing::info!(
        plugin = %slot.name, socket = %socket.display(), %wanted,
        "the build that serves listens at a fixed place, so it is stopped first (`stop-first`)"
    );
    Handover::StopFirst
}

/// The old build serves until the new one does; what it changes after its snapshot is lost.
fn overlap(
    workshop: &LoaderContext,
    slot: &Arc<Slot>,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    let fresh = NewGeneration::start(workshop, next, source, slot, Until::Started)?;
    let state = match slot.pin().and_then(|token| snapshot(workshop, next, &token)) {
        Ok(state) => state,
        Err(error) => {
            fresh.abort(workshop, next);
            return Err(error);
        }
    };
    let (token, build) = fresh.ready(workshop, next, state)?;
    match slot.promote(token) {
        Ok(before) => Ok(Swapped { build, before }),
        Err(late) => Err(drain_timeout_error(workshop, slot, late)),
    }
}

/// Calls wait while the state travels, so nothing of it is lost.
fn pause(
    workshop: &LoaderContext,
    slot: &Arc<Slot>,
    next: &Candidate,
    source: Source,
) -> Result<Swapped, Error> {
    let fresh = NewGeneration::start(workshop, next, source, slot, Until::Started)?;
    let Some(paused) = slot.pause() else {
        fresh.abort(workshop, next);
        return Err(slot.unloaded_error());
    };
    let before = match slot.drain(&paused, workshop.limits.pause_timeout) {
        Ok(token) => token,
        Err(held) => {
            slot.resume(paused, None);
            fresh.abort(workshop, next);
            return Err(undrained_error(workshop, next, held));
        }
    };
    let swapped = match snapshot(workshop, next, &before) {
        Ok(state) => fresh.ready(workshop, next, state),
        Err(error) => {
            fresh.abort(workshop, next);
            Err(error)
        }
    };
    match swapped {
        Ok((token, build)) => {
            if let Err(late) = slot.promote(token) {
                // Who took the plugin out of service ends the one before.
                drop(before);
                return Err(drain_timeout_error(workshop, slot, late));
            }
            let generation = Arc::clone(before.generation());
            generation.set_current(false);
            // Hands the instance back, for whoever ends the generation.
            drop(before);
            Ok(Swapped { build, before: Some(generation) })
        }
        Err(error) => {
            slot.resume(paused, Some(before));
            Err(error)
        }
    }
}

/// Takes the state of a generation, on a thread of its own.
pub(super) fn snapshot(
    workshop: &LoaderContext,
    next: &Candidate,
    token: &Arc<InstanceRef>,
) -> Result<Option<Snapshot>, Error> {
    let failed = || next.failed(LoadStep::Snapshot, ErrorKind::StartFailed);
    let wait_max = workshop.limits.start_timeout;
    let state = match token.call_within(wait_max, |body| body.snapshot()) {
        RunOutcome::Completed(state) => state.map_err(|error| failed().caused_by(error))?,
        RunOutcome::TimedOut => {
            let message = format!("it did not end within {} ms", wait_max.as_millis());
            return Err(failed().caused_by(message));
        }
        RunOutcome::SpawnFailed(error) => return Err(failed().caused_by(error)),
    };
    let bytes_max = workshop.limits.max_snapshot_bytes;
    match &state {
        Some(state) if state.as_bytes().len() as u64 > bytes_max => {
            let found = state.as_bytes().len();
            let message = format!("it has {found} bytes; this host carries at most {bytes_max}");
            Err(failed().caused_by(message))
        }
        _ => Ok(state),
    }
}

/// Ends a generation whose plugin was taken out of service before it could serve.
pub(super) fn drain_timeout_error(
    workshop: &LoaderContext,
    slot: &Slot,
    token: Arc<InstanceRef>,
) -> Error {
    let generation = Arc::clone(token.generation());
    drop(token);
    let limits = &workshop.limits;
    unload(&generation, limits.drain_timeout, limits, &workshop.keeper);
    slot.unloaded_error()
}

pub(super) fn undrained_error(workshop: &LoaderContext, next: &Candidate, held: usize) -> Error {
    let waited = workshop.limits.pause_timeout.as_millis();
    let message = format!("{held} calls or pins were still held after {waited} ms");
    next.failed(LoadStep::Drain, ErrorKind::Overloaded).caused_by(message)
}
