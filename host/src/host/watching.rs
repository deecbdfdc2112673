//! Handles changed folders: loads, reloads or unloads their plugins, or waits for more changes. Does
//! not keep the host alive, and does nothing slow on the thread of the watch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::registry::{Loadable, UnloadScope};
use super::reload::ReloadRequest;
use super::{Inner, Reloaded};
use crate::artifact::discover::MANIFEST;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::id::PluginName;
use crate::reload::{
    Attempt, AttemptOutcome, Candidate, ChangeHandler, Content, LoadOptions, OutcomeSender, Rules,
    Source, Watch, WatchOptions,
};
use crate::sync::lock;

/// Handles the changed folders of one host.
#[derive(Debug)]
pub(super) struct FolderWatcher {
    host: Weak<Inner>,
    rules: Rules,
    unload_removed: bool,
    failures: Arc<FailureLog>,
}

/// The last failure of each folder, so that no failure is reported or retried without a change.
#[derive(Debug, Default)]
struct FailureLog {
    failed: Mutex<BTreeMap<PathBuf, Failure>>,
}

#[derive(Debug, Clone)]
struct Failure {
    content: Content,
    reason: String,
    kind: ErrorKind,
    is_reported: bool,
    /// The options of the folder's next load.
    options: Arc<LoadOptions>,
    /// Content and reason of the failure that was reported last, if that is another one.
    reported: Option<(Content, String)>,
}

impl Failure {
    /// Returns whether a change elsewhere may fix it.
    fn waits(&self) -> bool {
        matches!(self.kind, ErrorKind::Requires | ErrorKind::Duplicate)
    }
}

/// The step after the unload of a folder's plugins.
enum Next {
    Load,
    Nothing,
}

/// One attempt to follow the changes of a folder.
#[derive(Debug)]
pub(super) struct FolderAttempt {
    folder: PathBuf,
    attempt: Attempt,
    /// The options with which the folder is loaded, if it is not reloaded.
    options: Arc<LoadOptions>,
    failures: Arc<FailureLog>,
    outcome: OutcomeSender,
}

impl FolderWatcher {
    pub(super) fn new(host: &Arc<Inner>, unload_removed: bool) -> Self {
        let rules = host.context.rules.clone();
        Self { host: Arc::downgrade(host), rules, unload_removed, failures: Arc::default() }
    }
}

impl ChangeHandler for FolderWatcher {
    fn run(&mut self, folder: &Path, attempt: Attempt, outcome: OutcomeSender) {
        let Some(host) = self.host.upgrade() else { return };
        let serving = host.serving_from(folder);
        let (failures, options) = (Arc::clone(&self.failures), self.options(folder, &serving));
        let this = FolderAttempt { folder: folder.to_owned(), attempt, options, failures, outcome };
        let exists = folder.join(MANIFEST).exists();
        let Some(first) = serving.first().map(|plugin| plugin.manifest.name().clone()) else {
            if !exists {
                lock(&self.failures.failed).remove(folder);
                this.outcome.send(AttemptOutcome::Removed);
            } else if !this.is_known(&self.rules) {
                let unload_removed = self.unload_removed;
                on_thread(move || this.load(&host, unload_removed));
            }
            return;
        };
        if !exists {
            if attempt == Attempt::Tentative {
                this.outcome.send(AttemptOutcome::MaybeIncomplete);
            } else if self.unload_removed {
                let names = serving.into_iter().map(|plugin| plugin.manifest.name().clone());
                let names: Vec<_> = names.collect();
                on_thread(move || {
                    this.unload(&host, &names, "its folder was removed", Next::Nothing)
                });
            }
            return;
        }
        if this.is_known(&self.rules) {
            return;
        }
        if attempt == Attempt::Final
            && let Some((names, reason)) = self.renamed(folder, &serving)
        {
            return on_thread(move || this.unload(&host, &names, &reason, Next::Load));
        }
        host.request_reload(&first, ReloadRequest::Watch(this));
    }

    fn waiting(&mut self) -> Vec<PathBuf> {
        let failed = lock(&self.failures.failed);
        let waiting = failed.iter().filter(|(_, failure)| failure.waits());
        waiting.map(|(folder, _)| folder.clone()).collect()
    }
}

impl FolderWatcher {
    /// Returns the options of the plugin that serves from `folder` under the name of its manifest, or
    /// that did before its load failed.
    fn options(&self, folder: &Path, serving: &[Loadable]) -> Arc<LoadOptions> {
        let mut options = serving.iter().map(|plugin| &plugin.options);
        match options.find(|options| options.name().is_none()) {
            Some(options) => Arc::clone(options),
            None => {
                let failed = lock(&self.failures.failed);
                failed.get(folder).map(|failure| Arc::clone(&failure.options)).unwrap_or_default()
            }
        }
    }

    /// Returns the plugins that serve from `folder` under another name than its manifest states
    /// now, and the reason to unload them.
    fn renamed(&self, folder: &Path, serving: &[Loadable]) -> Option<(Vec<PluginName>, String)> {
        let mut reason = None;
        let names = serving.iter().filter_map(|plugin| {
            let next = Candidate::read_with(folder, &self.rules, &plugin.options).ok()?;
            let (old, new) = (plugin.manifest.name(), next.manifest.name());
            if old == new {
                return None;
            }
            reason.get_or_insert_with(|| format!("its folder now contains the plugin `{new}`"));
            Some(old.clone())
        });
        let names = names.collect();
        reason.map(|reason| (names, reason))
    }
}

impl Inner {
    /// Starts to watch the plugin directories.
    pub(super) fn watch(
        self: &Arc<Self>,
        poll_interval: Option<Duration>,
        unload_removed: bool,
    ) -> Result<(), Error> {
        let rules = self.context.rules.clone();
        let watching = WatchOptions { dirs: self.dirs.clone(), rules, poll_interval };
        let watch = Watch::start(watching, FolderWatcher::new(self, unload_removed));
        let watch = watch.map_err(|error| {
            let message = "cannot start the thread that watches the plugin directories";
            Error::new(ErrorKind::Overloaded, message).caused_by(error)
        })?;
        *lock(&self.watch) = Some(watch);
        Ok(())
    }

    /// Returns the plugins that serve from a folder, by any of its paths.
    fn serving_from(&self, folder: &Path) -> Vec<Loadable> {
        let mut serving = self.registry.serving();
        let canonical = folder.canonicalize().ok();
        serving.retain(|plugin| {
            let Some(loaded) = &plugin.folder else { return false };
            let is_same = |folder: &Path| loaded.canonicalize().is_ok_and(|it| it == folder);
            loaded == folder || canonical.as_deref().is_some_and(is_same)
        });
        serving
    }

    /// Requests a reload of the plugins that serve from `folder`, except these.
    pub(super) fn reload_others(self: &Arc<Self>, folder: &Path, except: &[PluginName]) {
        for plugin in self.serving_from(folder) {
            if !except.contains(plugin.manifest.name()) {
                self.request_reload(plugin.manifest.name(), ReloadRequest::SameFolder);
            }
        }
    }
}

impl FolderAttempt {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns whether this content failed before and no change elsewhere can fix it.
    fn is_known(&self, rules: &Rules) -> bool {
        let failure = lock(&self.failures.failed).get(&self.folder).cloned();
        let failure = failure.filter(|failure| failure.is_reported && !failure.waits());
        failure.is_some_and(|failure| failure.content == Content::of(&self.folder, rules))
    }

    /// Loads a plugin that does not serve yet.
    fn load(self, host: &Arc<Inner>, may_wait_for_removal: bool) {
        let rules = &host.context.rules;
        let content = Content::of(&self.folder, rules);
        let candidate = Candidate::read_with(&self.folder, rules, &self.options);
        let loaded = candidate.and_then(|candidate| host.load(&candidate, Source::Library, None));
        let error = match &loaded {
            Ok(handle) => {
                lock(&self.failures.failed).remove(&self.folder);
                // Those that were loaded under other names, if the manifest has another one now.
                host.reload_others(&self.folder, &[handle.name().clone()]);
                return self.outcome.send(AttemptOutcome::Changed);
            }
            Err(error) => error,
        };
        if error.kind() == ErrorKind::Duplicate {
            let name = error.plugin().cloned();
            let there = name.as_ref().and_then(|name| host.registry.serving_plugin(name).ok());
            let other = there.and_then(|there| there.folder);
            if other.as_deref() == Some(self.folder.as_path()) {
                // It was loaded meanwhile, perhaps with the content before the change.
                let Some(name) = name else { return };
                return host.request_reload(&name, ReloadRequest::Watch(self));
            }
            let is_removed = other.is_none_or(|other| !other.join(MANIFEST).exists());
            if is_removed && may_wait_for_removal {
                self.remember(error, content, false);
                return;
            }
        }
        let (is_reported, outcome) = self.classify(error, content);
        if is_reported {
            warn(&self.folder, error);
            host.emit_refused(&self.folder, &loaded);
            host.reload_others(&self.folder, &[]);
        }
        self.outcome.send(outcome);
    }

    /// Handles the outcome of a reload. Returns whether a failure is to be reported.
    pub(super) fn reloaded(self, reloaded: &Result<Reloaded, Error>, content: Content) -> bool {
        let (is_reported, outcome) = match reloaded {
            Ok(Reloaded::Promoted(_)) => (true, AttemptOutcome::Changed),
            Ok(Reloaded::Unchanged) => (true, AttemptOutcome::Done),
            Err(error) => self.classify(error, content),
        };
        match reloaded {
            Ok(_) => drop(lock(&self.failures.failed).remove(&self.folder)),
            Err(error) if is_reported => warn(&self.folder, error),
            Err(_) => {}
        }
        self.outcome.send(outcome);
        is_reported
    }

    /// Unloads plugins that the folder does not contain anymore.
    fn unload(self, host: &Arc<Inner>, plugins: &[PluginName], reason: &str, next: Next) {
        let mut kept = Vec::new();
        for plugin in plugins {
            let generation = host.registry.info(plugin).and_then(|info| info.generation);
            if let Err(error) = host.unload(plugin.as_str(), UnloadScope::Any) {
                kept.push((plugin, generation, error));
            }
        }
        if kept.is_empty() {
            return match next {
                Next::Load => self.load(host, true),
                Next::Nothing => {
                    lock(&self.failures.failed).remove(&self.folder);
                    self.outcome.send(AttemptOutcome::Changed);
                }
            };
        }
        // Dependents keep them; or another thread unloads them.
        kept.retain(|(_, _, error)| error.kind() == ErrorKind::Requires);
        let is_new = kept
            .first()
            .is_some_and(|(_, _, error)| self.remember(error, Content::default(), true));
        for (plugin, generation, error) in kept.into_iter().filter(|_| is_new) {
            host.context.events.emit(HostEvent::RolledBack {
                plugin: plugin.clone(),
                generation,
                step: Some(LoadStep::Requires),
                reason: format!("{reason}, but the plugin stays loaded: {}", error.full_message()),
                hint: error.hint().map(str::to_owned),
            });
        }
        if matches!(next, Next::Load) {
            host.reload_others(&self.folder, plugins);
        }
    }

    /// Returns whether a failure is to be reported now, and whether the files may be incomplete.
    fn classify(&self, error: &Error, content: Content) -> (bool, AttemptOutcome) {
        use ErrorKind::{NotFound, Retired, Shutdown, Superseded};
        if matches!(error.kind(), NotFound | Retired | Shutdown | Superseded) {
            // Another request handles it, or the plugin is gone.
            return (false, AttemptOutcome::Done);
        }
        let before_it_runs = error.step().is_some_and(|step| step < LoadStep::Open);
        let may_be_incomplete = before_it_runs || error.kind() == ErrorKind::Duplicate;
        let is_tentative = self.attempt == Attempt::Tentative && may_be_incomplete;
        let is_new = self.remember(error, content, !is_tentative);
        let outcome = match is_tentative {
            true => AttemptOutcome::MaybeIncomplete,
            false => AttemptOutcome::Done,
        };
        (is_new && !is_tentative, outcome)
    }

    /// Records a failure. Returns whether it was not reported before.
    fn remember(&self, error: &Error, content: Content, is_reported: bool) -> bool {
        let (reason, kind) = (error.full_message(), error.kind());
        let mut failed = lock(&self.failures.failed);
        // What was not reported does not hide what was: files are written one after the other, and
        // may be incomplete in between.
        let reported = failed.remove(&self.folder).and_then(|before| match before.is_reported {
            true => Some((before.content, before.reason)),
            false => before.reported,
        });
        let is_same =
            |(before, earlier): &(Content, String)| *before == content && *earlier == reason;
        let was_reported = reported.as_ref().is_some_and(is_same);
        let is_reported = is_reported || was_reported;
        let reported = reported.filter(|_| !is_reported);
        let options = Arc::clone(&self.options);
        let failure = Failure { content, reason, kind, is_reported, options, reported };
        failed.insert(self.folder.clone(), failure);
        !was_reported
    }
}

fn warn(folder: &Path, error: &Error) {
    let (folder, reason) = (folder.display(), error.full_message());
    tracing::warn!(%folder, reason, hint = error.hint(), "the changed plugin was not loaded");
}

fn on_thread(run: impl FnOnce() + Send + 'static) {
    let spawned = std::thread::Builder::new().name("hotbay-load".to_owned()).spawn(run);
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start a thread to load a changed plugin");
    }
}
