//! Reloads plugins, one reload of a plugin at a time, on threads of the host. Replaced builds drain
//! and stop in the background.

use std::path::Path;
use std::sync::Arc;

use super::inner::Inner;
use super::reload_request::{ReloadRequest, Reloaded};
use crate::artifact::digest::Artifact;
use crate::artifact::signature::Extent;
use crate::error::signature::SignatureError;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::generation::Generation;
use crate::generation::unload::unload;
use crate::id::{GenerationId, PluginName};
use crate::loader::{
    Build, Candidate, Content, Plan, Source, Submission, Swapped, plan, read_artifact,
    reload_failed, schema_digests, swap,
};
use crate::panic::catch_panic;
use crate::slot::Slot;

impl Inner {
    /// Reloads a plugin, now or after its current reload. A request of the watch replaces none that
    /// is queued, since that one will see the same files.
    pub(super) fn request_reload(self: &Arc<Self>, plugin: &PluginName, request: ReloadRequest) {
        let submitted = match &request {
            ReloadRequest::Caller(_) => self.reload_queue.submit(plugin, request),
            ReloadRequest::Watch(_) | ReloadRequest::SameFolder => {
                self.reload_queue.submit_if_idle(plugin, request)
            }
        };
        match submitted {
            Submission::Run(request) => self.submit(plugin.clone(), request),
            Submission::Queued => {}
            Submission::Replaced(ReloadRequest::Caller(sender)) => {
                let _ = sender.send(Err(superseded(plugin)));
            }
            // The request that waits sees the files of this plugin, but not those of the others.
            Submission::Replaced(ReloadRequest::Watch(attempt)) => {
                self.reload_others(attempt.folder(), std::slice::from_ref(plugin));
            }
            Submission::Replaced(ReloadRequest::SameFolder) => {}
        }
    }

    fn submit(self: &Arc<Self>, plugin: PluginName, request: ReloadRequest) {
        let inner = Arc::clone(self);
        let name = plugin.clone();
        let work = move || {
            let mut request = request;
            loop {
                // After a panic, the next request still runs, and the caller of this one gets
                // an error, because its sender is dropped.
                if let Err(message) = catch_panic(|| inner.reload(&name, request)) {
                    tracing::error!(plugin = %name, message, "the reload panicked");
                }
                match inner.reload_queue.done(&name) {
                    Some(next) => request = next,
                    None => return,
                }
            }
        };
        let spawned = self.spawn("hotbay-reload", work);
        if let Err(error) = spawned {
            tracing::error!(%error, %plugin, "cannot start a thread for a reload");
            // Callers get an error, because their senders are dropped.
            drop(self.reload_queue.abandon(&plugin));
        }
    }

    fn reload(self: &Arc<Self>, plugin: &PluginName, request: ReloadRequest) {
        let mut content = Content::default();
        let is_explicit = matches!(request, ReloadRequest::Caller(_));
        let reloaded = self.reload_now(plugin, is_explicit, &mut content);
        match request {
            ReloadRequest::Caller(sender) => {
                self.emit_rolled_back(plugin, &reloaded);
                let _ = sender.send(reloaded);
            }
            ReloadRequest::Watch(attempt) => {
                let folder = attempt.folder().to_owned();
                let is_unloaded = reloaded.as_ref().is_err_and(|error| {
                    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Retired)
                });
                let is_reported = attempt.reloaded(&reloaded, content);
                if is_reported {
                    self.emit_rolled_back(plugin, &reloaded);
                }
                if is_reported || is_unloaded {
                    self.reload_others(&folder, std::slice::from_ref(plugin));
                }
            }
            ReloadRequest::SameFolder => self.emit_rolled_back(plugin, &reloaded),
        }
    }

    /// Requests a reload of the plugins that serve from `folder`, except these.
    pub(super) fn reload_others(self: &Arc<Self>, folder: &Path, except: &[PluginName]) {
        for plugin in self.serving_from(folder) {
            if !except.contains(plugin.manifest.name()) {
                self.request_reload(plugin.manifest.name(), ReloadRequest::SameFolder);
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
                self.context.events.emit(HostEvent::RolledBack {
                    plugin,
                    generation: serving,
                    step: error.step(),
                    reason,
                    hint: error.hint().map(str::to_owned),
                });
            }
        }
    }

    /// Sets `content` to what was read if the reload fails.
    fn reload_now(
        self: &Arc<Self>,
        plugin: &PluginName,
        is_explicit: bool,
        content: &mut Content,
    ) -> Result<Reloaded, Error> {
        let mut unhashed = None;
        let reloaded = self.reload_from(plugin, is_explicit, content, &mut unhashed);
        if reloaded.is_err()
            && let Some(artifact) = unhashed
        {
            content.set_artifact(Ok(Some(&artifact)));
        }
        reloaded
    }

    /// Leaves the library in `unhashed` if `content` lacks its digest.
    fn reload_from(
        self: &Arc<Self>,
        plugin: &PluginName,
        is_explicit: bool,
        content: &mut Content,
        unhashed: &mut Option<Arc<Artifact>>,
    ) -> Result<Reloaded, Error> {
        let there = self.registry.serving_plugin(plugin)?;
        let serving = there.slot.generation().map(|generation| generation.id);
        let rolled_back = |error: Error| match serving {
            Some(serving) => keeps_serving(error, plugin, serving),
            None => error,
        };
        let Some(folder) = &there.folder else {
            let message = "cannot be reloaded: it is compiled into the program";
            return Err(Error::new(ErrorKind::Unsupported, message).of(plugin));
        };
        let rules = &self.context.rules;
        let next = Candidate::read_with(folder, rules, &there.options);
        content.set_manifest(&next, rules);
        let settings = self.context.settings.load();
        let next = next.and_then(|next| next.with_settings(&settings, &self.context.confinement));
        let mut next = next.map_err(rolled_back)?;
        next.serving = serving;
        if next.manifest.name() != plugin {
            let message = format!("its folder now contains the plugin `{}`", next.manifest.name());
            return Err(next.failed(LoadStep::Manifest, ErrorKind::Manifest).caused_by(message));
        }
        let next = next.verify_signature(rules, Extent::Contents);
        content.set_signature(&next);
        let next = next?;
        let reloading = self.registry.begin_reload(&next, &there.slot)?;
        let library = read_artifact(&next, rules).map(|library| library.map(Arc::new));
        let sha256 = match library.as_ref().ok().and_then(Option::as_ref) {
            Some(artifact) if is_certainly_new(&there.build, &next, artifact) => {
                *unhashed = Some(Arc::clone(artifact));
                next.manifest.sha256().map(|stated| *stated.as_bytes())
            }
            _ => {
                content.set_artifact(library.as_ref().map(Option::as_deref));
                None
            }
        };
        let library = library?;
        let sha256 = sha256.or_else(|| library.as_deref().map(Artifact::content));
        // A new generation of the same build starts without faults.
        let ends_quarantine = is_explicit && there.slot.health.is_quarantined();
        // The permissions may differ, which the manifest does not show.
        let is_new =
            ends_quarantine || !settings.is_same_for(&next.manifest, &there.build.settings);
        match plan(&there.build, &next.manifest, sha256, &next.signature, &reloading.dependents) {
            // Schema files are part of the build too.
            Plan::Unchanged if !is_new && there.build.schemas == schema_digests(&next, rules) => {
                return Ok(Reloaded::Unchanged);
            }
            Plan::Refuse(message) => {
                let failed = next.failed(LoadStep::Requires, ErrorKind::Requires);
                return Err(failed.caused_by(message));
            }
            Plan::SignatureLost { key } => {
                let failed = next.failed(LoadStep::Signature, ErrorKind::Integrity);
                return Err(failed.caused_by(SignatureError::Lost { key }));
            }
            Plan::Unchanged | Plan::Swap => {}
        }
        self.check_retained(&next)?;
        let slot = &there.slot;
        let source = library.map_or(Source::Library, Source::Read);
        match swap(&self.context, slot, &there.build.manifest, &next, source) {
            Ok(swapped) => self.promoted(plugin, slot, swapped),
            Err(error) => {
                if slot.generation().is_none() {
                    self.registry.remove(plugin, slot);
                }
                Err(error)
            }
        }
    }

    fn promoted(
        self: &Arc<Self>,
        plugin: &PluginName,
        slot: &Arc<Slot>,
        swapped: Swapped,
    ) -> Result<Reloaded, Error> {
        let Swapped { build, previous: before } = swapped;
        let version = build.manifest.version().clone();
        let Some(generation) = self.registry.replace(plugin, slot, build) else {
            // Unloaded or shut down meanwhile, which ended the new generation too.
            if let Some(before) = before {
                self.unload_in_background(before);
            }
            return Err(slot.unloaded_error());
        };
        let (plugin, from) = (plugin.clone(), before.as_ref().map(|before| before.id));
        let event = HostEvent::Promoted { plugin, version, generation, from };
        self.context.events.emit(event);
        if let Some(before) = before {
            self.unload_in_background(before);
        }
        Ok(Reloaded::Promoted(generation))
    }

    /// Drains and stops a replaced generation in the background.
    fn unload_in_background(self: &Arc<Self>, generation: Arc<Generation>) {
        let context = Arc::clone(&self.context);
        let end = move || {
            let limits = &context.limits;
            unload(&generation, limits.drain_timeout, limits, &context.deferred_unloads);
        };
        if let Err(error) = self.spawn("hotbay-retire", end) {
            // Its library stays mapped, which is safe.
            tracing::error!(%error, "cannot start a thread to unload a generation");
        }
    }
}

/// Returns whether a library cannot be the current one, since its manifest states another digest.
/// Then its own digest is computed while the load continues.
fn is_certainly_new(current: &Build, next: &Candidate, artifact: &Artifact) -> bool {
    let stated = next.manifest.sha256().map(|digest| *digest.as_bytes());
    // A large file is not kept in memory while its library starts.
    artifact.is_small()
        && artifact.dependencies().files.is_empty()
        && stated.is_some_and(|stated| current.sha256 != Some(stated))
}

fn superseded(plugin: &PluginName) -> Error {
    let message = "was not reloaded: a later request replaced this one";
    Error::new(ErrorKind::Superseded, message).of(plugin)
}

fn keeps_serving(error: Error, plugin: &PluginName, serving: GenerationId) -> Error {
    let step = error.step().unwrap_or(LoadStep::Manifest);
    reload_failed(step, error.kind(), serving).caused_by(error).of(plugin)
}
