//! Reloads: one at a time for a plugin, on threads of the host's own; what was replaced drains
//! and ends beside them.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Inner;
use super::watching::FolderAttempt;
use crate::artifact::digest::Artifact;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::generation::Generation;
use crate::generation::unload::unload;
use crate::id::{GenerationId, PluginName};
use crate::reload::{
    Candidate, Content, Plan, Source, Submission, Swapped, plan, read_artifact, swap,
};
use crate::slot::Slot;

/// What a reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reloaded {
    /// This generation serves now.
    Promoted(GenerationId),
    /// Neither library nor manifest had changed, and the plugin was not quarantined.
    Unchanged,
}

/// Who waits for a reload.
#[derive(Debug)]
pub(super) enum Request {
    Caller(oneshot::Sender<Result<Reloaded, Error>>),
    Watch(FolderAttempt),
}

impl Inner {
    /// Reloads a plugin, now or after the job that runs. One that waits already will see all
    /// that the watch saw, so the watch takes nobody's place.
    pub(super) fn request_reload(self: &Arc<Self>, plugin: &PluginName, request: Request) {
        let taken = match &request {
            Request::Caller(_) => self.desk.submit(plugin, request),
            Request::Watch(_) => self.desk.submit_if_idle(plugin, request),
        };
        match taken {
            Submission::Run(request) => self.submit(plugin.clone(), request),
            Submission::Queued => {}
            Submission::Replaced(Request::Caller(teller)) => {
                let _ = teller.send(Err(superseded(plugin)));
            }
            Submission::Replaced(Request::Watch(visit)) => drop(visit),
        }
    }

    fn submit(self: &Arc<Self>, plugin: PluginName, request: Request) {
        let inner = Arc::clone(self);
        let name = plugin.clone();
        let working = self.busy.start();
        let spawned =
            std::thread::Builder::new().name("hotbay-reload".to_owned()).spawn(move || {
                let _working = working;
                let mut request = request;
                loop {
                    // Whatever panics on the way, the next request has its turn; who waits for
                    // this one hears that it was lost.
                    let reload = std::panic::AssertUnwindSafe(|| inner.reload(&name, request));
                    if std::panic::catch_unwind(reload).is_err() {
                        tracing::error!(plugin = %name, "a reload of the host's own panicked");
                    }
                    match inner.desk.done(&name) {
                        Some(next) => request = next,
                        None => return,
                    }
                }
            });
        if let Err(error) = spawned {
            tracing::error!(%error, %plugin, "no thread for a reload");
            // Those who wait are answered as the request is dropped.
            drop(self.desk.done(&plugin));
        }
    }

    fn reload(self: &Arc<Self>, plugin: &PluginName, request: Request) {
        let mut content = Content::default();
        let is_explicit = matches!(request, Request::Caller(_));
        let reloaded = self.reload_now(plugin, is_explicit, &mut content);
        match request {
            Request::Caller(teller) => {
                self.emit_rolled_back(plugin, &reloaded);
                let _ = teller.send(reloaded);
            }
            Request::Watch(visit) => {
                if visit.reloaded(&reloaded, content) {
                    self.emit_rolled_back(plugin, &reloaded);
                }
            }
        }
    }

    fn emit_rolled_back(&self, plugin: &PluginName, reloaded: &Result<Reloaded, Error>) {
        match reloaded {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let serving = error.generation();
                let (plugin, reason) = (plugin.clone(), error.full_message());
                self.workshop.events.emit(HostEvent::RolledBack {
                    plugin,
                    generation: serving,
                    step: error.step(),
                    reason,
                    hint: error.hint().map(str::to_owned),
                });
            }
        }
    }

    fn reload_now(
        self: &Arc<Self>,
        plugin: &PluginName,
        is_explicit: bool,
        content: &mut Content,
    ) -> Result<Reloaded, Error> {
        let there = self.table.serving_plugin(plugin)?;
        let serving = there.slot.generation().map(|generation| generation.id);
        let rolled_back = |error: Error| match serving {
            Some(serving) => keeps_serving(error, plugin, serving),
            None => error,
        };
        let Some(folder) = &there.folder else {
            let message = "is compiled in; a reload needs a folder";
            return Err(Error::new(ErrorKind::Unsupported, message).of(plugin));
        };
        let rules = &self.workshop.rules;
        let next = Candidate::read(folder, rules);
        content.set_manifest(&next, rules);
        let mut next = next.map_err(rolled_back)?;
        next.serving = serving;
        if next.manifest.name() != plugin {
            let message = format!("its folder holds `{}` now", next.manifest.name());
            return Err(next.failed(LoadStep::Manifest, ErrorKind::Manifest).caused_by(message));
        }
        self.table.check_requirements(&next)?;
        let dependents = self.table.dependents(plugin);
        let library = read_artifact(&next, rules);
        content.set_artifact(&library);
        let library = library?;
        let sha256 = library.as_ref().map(Artifact::content);
        // A new generation of the same build has nothing held against it.
        let is_cure = is_explicit && there.slot.health.is_quarantined();
        match plan(&there.build, &next.manifest, sha256, &dependents) {
            // A schema in a file of its own is part of the build as well.
            Plan::Unchanged if !is_cure && there.build.schemas == next.schema_digests(rules) => {
                return Ok(Reloaded::Unchanged);
            }
            Plan::Refuse(message) => {
                let failed = next.failed(LoadStep::Requires, ErrorKind::Requires);
                return Err(failed.caused_by(message));
            }
            Plan::Unchanged | Plan::Swap(_) => {}
        }
        self.make_room(&next)?;
        let slot = &there.slot;
        let source = library.map_or(Source::Library, |read| Source::Read(Box::new(read)));
        match swap(&self.workshop, slot, &there.build.manifest, &next, source) {
            Ok(swapped) => self.promoted(plugin, slot, swapped),
            Err(error) => {
                if slot.generation().is_none() {
                    self.table.remove(plugin, slot);
                }
                Err(error)
            }
        }
    }

    /// Libraries that stay mapped are bounded.
    pub(super) fn make_room(&self, next: &Candidate) -> Result<(), Error> {
        let keeper = &self.workshop.deferred_unloads;
        let (kept, kept_max) = (keeper.count(), self.workshop.limits.max_retained_libraries);
        if kept < kept_max as usize {
            return Ok(());
        }
        let message = format!(
            "{kept} libraries of earlier builds stay mapped ({}), which is `max_retained_libraries`; \
             restart the program to unmap them, raise the limit, or see `Host::kept` for the \
             reasons and fix them",
            keeper.totals()
        );
        Err(next.failed(LoadStep::Open, ErrorKind::Overloaded).caused_by(message))
    }

    fn promoted(
        self: &Arc<Self>,
        plugin: &PluginName,
        slot: &Arc<Slot>,
        swapped: Swapped,
    ) -> Result<Reloaded, Error> {
        let Swapped { build, previous: before } = swapped;
        let version = build.manifest.version().clone();
        let Some(generation) = self.table.replace(plugin, slot, build) else {
            // Unloaded or shut down meanwhile: whoever did that took the new generation out.
            if let Some(before) = before {
                self.end_later(before);
            }
            return Err(slot.unloaded_error());
        };
        let (plugin, from) = (plugin.clone(), before.as_ref().map(|before| before.id));
        let event = HostEvent::Promoted { plugin, version, generation, from };
        self.workshop.events.emit(event);
        if let Some(before) = before {
            self.end_later(before);
        }
        Ok(Reloaded::Promoted(generation))
    }

    /// Drains and ends a generation that was replaced, without keeping the next job waiting.
    fn end_later(self: &Arc<Self>, generation: Arc<Generation>) {
        let workshop = Arc::clone(&self.workshop);
        let working = self.busy.start();
        let end = move || {
            let _working = working;
            let limits = &workshop.limits;
            unload(&generation, limits.drain_timeout, limits, &workshop.deferred_unloads);
        };
        let spawned = std::thread::Builder::new().name("hotbay-retire".to_owned()).spawn(end);
        if let Err(error) = spawned {
            // Its library stays mapped for good, which is safe.
            tracing::error!(%error, "no thread to end a generation");
        }
    }
}

fn superseded(plugin: &PluginName) -> Error {
    let message = "was to be reloaded, and a later request took the place of this one";
    Error::new(ErrorKind::Superseded, message).of(plugin)
}

fn keeps_serving(error: Error, plugin: &PluginName, serving: GenerationId) -> Error {
    let step = error.step().unwrap_or(LoadStep::Manifest);
    let message = format!("failed to reload at step `{step}`; generation {serving} keeps serving");
    let kind = error.kind();
    let wrapped = Error::new(kind, message).caused_by(error);
    wrapped.of(plugin).in_generation(serving).at_step(step)
}
