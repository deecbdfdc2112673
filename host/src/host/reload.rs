//! Reloads: one at a time for a plugin, on threads of the host's own; what was replaced drains
//! and ends beside them.

use std::sync::Arc;

use super::{Inner, shutting_down};
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::generation::Generation;
use crate::generation::retire::retire;
use crate::id::{GenerationId, PluginName};
use crate::pool::Teller;
use crate::reload::{Candidate, Plan, Swapped, Taken, digest_of, plan, swap};

/// What a reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reloaded {
    /// This generation serves now.
    Promoted(GenerationId),
    /// Neither library nor manifest had changed.
    Unchanged,
}

/// Who waits for a reload; nobody, for one that the watch asked for.
pub(super) type Request = Option<Teller<Result<Reloaded, Error>>>;

impl Inner {
    /// Reloads a plugin, now or after the job that runs.
    pub(super) fn request_reload(self: &Arc<Self>, plugin: &PluginName, request: Request) {
        match self.desk.take(plugin, request) {
            Taken::Begin(request) => self.begin(plugin.clone(), request),
            Taken::Waits => {}
            Taken::Instead(before) => tell(before, Err(superseded(plugin))),
        }
    }

    fn begin(self: &Arc<Self>, plugin: PluginName, request: Request) {
        let inner = Arc::clone(self);
        let name = plugin.clone();
        let spawned =
            std::thread::Builder::new().name("hotbay-reload".to_owned()).spawn(move || {
                let mut request = request;
                loop {
                    tell(request, inner.reload(&name));
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

    fn reload(self: &Arc<Self>, plugin: &PluginName) -> Result<Reloaded, Error> {
        let reloaded = self.reload_now(plugin);
        match &reloaded {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let serving = error.generation();
                let (plugin, reason) = (plugin.clone(), error.full_message());
                self.workshop.board.tell(HostEvent::RolledBack {
                    plugin,
                    generation: serving,
                    step: error.step(),
                    reason,
                });
            }
        }
        reloaded
    }

    fn reload_now(self: &Arc<Self>, plugin: &PluginName) -> Result<Reloaded, Error> {
        let there = self.table.there(plugin)?;
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
        let mut next = Candidate::read(folder, rules).map_err(rolled_back)?;
        next.serving = serving;
        if next.manifest.name() != plugin {
            let message = format!("its folder holds `{}` now", next.manifest.name());
            return Err(next.failed(LoadStep::Manifest, ErrorKind::Manifest).caused_by(message));
        }
        self.table.check_requirements(&next)?;
        let dependents = self.table.dependents(plugin);
        let sha256 = digest_of(&next, rules)?;
        match plan(&there.build, &next.manifest, sha256, &dependents) {
            Plan::Nothing => return Ok(Reloaded::Unchanged),
            Plan::Refuse(message) => {
                let failed = next.failed(LoadStep::Requires, ErrorKind::Requires);
                return Err(failed.caused_by(message));
            }
            Plan::Swap(_) => {}
        }
        self.make_room(&next)?;
        let swapped = swap(&self.workshop, &there.slot, &there.build.manifest, &next)?;
        self.promoted(plugin, swapped)
    }

    /// Libraries that stay mapped are bounded.
    fn make_room(&self, next: &Candidate) -> Result<(), Error> {
        let keeper = &self.workshop.keeper;
        let (kept, kept_max) = (keeper.count(), self.workshop.limits.kept_images_max);
        if kept < kept_max as usize {
            return Ok(());
        }
        let message = format!(
            "{kept} libraries of earlier builds stay mapped, which is `kept_images_max`; see \
             `Host::kept` for the reasons, mend them, or restart the program"
        );
        Err(next.failed(LoadStep::Open, ErrorKind::Overloaded).caused_by(message))
    }

    fn promoted(
        self: &Arc<Self>,
        plugin: &PluginName,
        swapped: Swapped,
    ) -> Result<Reloaded, Error> {
        let Swapped { build, before } = swapped;
        let version = build.manifest.version().clone();
        let Some(generation) = self.table.replace(plugin, build) else {
            // Unloaded or shut down meanwhile: whoever did that took the new generation out.
            if let Some(before) = before {
                self.end_later(before);
            }
            return Err(shutting_down());
        };
        let (plugin, from) = (plugin.clone(), before.as_ref().map(|before| before.id));
        let event = HostEvent::Promoted { plugin, version, generation, from };
        self.workshop.board.tell(event);
        if let Some(before) = before {
            self.end_later(before);
        }
        Ok(Reloaded::Promoted(generation))
    }

    /// Drains and ends a generation that was replaced, without keeping the next job waiting.
    fn end_later(self: &Arc<Self>, generation: Arc<Generation>) {
        let inner = Arc::clone(self);
        let end = move || {
            let limits = &inner.workshop.limits;
            retire(&generation, limits.drain_wait_max, limits, &inner.workshop.keeper);
        };
        let spawned = std::thread::Builder::new().name("hotbay-retire".to_owned()).spawn(end);
        if let Err(error) = spawned {
            // Its library stays mapped for good, which is safe.
            tracing::error!(%error, "no thread to end a generation");
        }
    }
}

fn tell(request: Request, answer: Result<Reloaded, Error>) {
    if let Some(teller) = request {
        teller.tell(answer);
    }
}

fn superseded(plugin: &PluginName) -> Error {
    let message = "was to be reloaded, and a later request took the place of this one";
    Error::new(ErrorKind::Superseded, message).of(plugin)
}

fn keeps_serving(error: Error, plugin: &PluginName, serving: GenerationId) -> Error {
    let step = error.step().unwrap_or(LoadStep::Manifest);
    let message =
        format!("was not reloaded, at the step `{step}`; generation {serving} keeps serving");
    let kind = error.kind();
    let wrapped = Error::new(kind, message).caused_by(error);
    wrapped.of(plugin).in_generation(serving).at_step(step)
}
