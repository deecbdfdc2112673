//! Handles changed folders: loads, reloads or unloads their plugins, or waits for more changes. Does
//! not keep the host alive, and does nothing slow on the thread of the watch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::inner::Inner;
use super::registry::{Loadable, UnloadScope};
use super::reload_request::{FailureLog, FolderAttempt, ReloadRequest, warn};
use crate::artifact::discover::MANIFEST;
use crate::artifact::trust::Rules;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::id::PluginName;
use crate::loader::{Candidate, Content, LoadOptions, Source};
use crate::sync::lock;
use crate::watch::{Attempt, AttemptOutcome, ChangeHandler, OutcomeSender, Watch, WatchOptions};

/// Starts to watch the plugin directories.
pub(super) fn watch(
    host: &Arc<Inner>,
    poll_interval: Option<Duration>,
    unload_removed: bool,
) -> Result<(), Error> {
    let rules = host.context.rules.clone();
    let watching = WatchOptions { dirs: host.dirs.clone(), rules, poll_interval };
    let watch = Watch::start(watching, FolderWatcher::new(host, unload_removed));
    let watch = watch.map_err(|error| {
        let message = "cannot start the thread that watches the plugin directories";
        Error::new(ErrorKind::Overloaded, message).caused_by(error)
    })?;
    *lock(&host.watch) = Some(watch);
    Ok(())
}

/// Handles the changed folders of one host.
#[derive(Debug)]
struct FolderWatcher {
    host: Weak<Inner>,
    rules: Rules,
    unload_removed: bool,
    failures: Arc<FailureLog>,
}

/// The step after the unload of a folder's plugins.
enum Next {
    Load,
    Nothing,
}

impl FolderWatcher {
    fn new(host: &Arc<Inner>, unload_removed: bool) -> Self {
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
                on_thread(host, move |host| load_folder(this, host, unload_removed));
            }
            return;
        };
        if !exists {
            if attempt == Attempt::Tentative {
                this.outcome.send(AttemptOutcome::MaybeIncomplete);
            } else if self.unload_removed {
                let names = serving.into_iter().map(|plugin| plugin.manifest.name().clone());
                let names: Vec<_> = names.collect();
                on_thread(host, move |host| {
                    unload(this, host, &names, "its folder was removed", Next::Nothing)
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
            return on_thread(host, move |host| unload(this, host, &names, &reason, Next::Load));
        }
        if !missing_instances(&host, folder).is_empty() {
            let (host, folder) = (Arc::clone(&host), folder.to_owned());
            let is_final = attempt == Attempt::Final;
            on_thread(host, move |host| _ = load_instances(&folder, host, is_final));
        }
        host.request_reload(&first, ReloadRequest::Watch(this));
    }

    fn waiting(&mut self) -> Vec<PathBuf> {
        let failed = lock(&self.failures.failed);
        let waiting = failed.iter().filter(|(_, failure)| failure.waits());
        waiting.map(|(folder, _)| folder.clone()).collect()
    }

    fn instances(&mut self) -> BTreeSet<PathBuf> {
        let Some(host) = self.host.upgrade() else { return BTreeSet::new() };
        host.context.settings.load().instances().map(|(_, folder)| folder.clone()).collect()
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

fn on_thread(host: Arc<Inner>, run: impl FnOnce(&Arc<Inner>) + Send + 'static) {
    let starter = Arc::clone(&host);
    if let Err(error) = starter.spawn("hotbay-load", move || run(&host)) {
        tracing::error!(%error, "cannot start a thread to load a changed plugin");
    }
}

/// Loads the plugin of a folder from which none serves, and the instances that the configuration adds.
fn load_folder(attempt: FolderAttempt, host: &Arc<Inner>, may_wait_for_removal: bool) {
    let is_inside = host.dirs.iter().any(|dir| attempt.folder.starts_with(dir));
    let loaded = match is_inside {
        true => load(&attempt, host, may_wait_for_removal),
        false => Loaded::Ended(AttemptOutcome::Done),
    };
    let is_changed = matches!(loaded, Loaded::Ended(AttemptOutcome::Changed));
    let is_final = attempt.attempt == Attempt::Final || is_changed;
    let instances = load_instances(&attempt.folder, host, is_final);
    let outcome = match loaded {
        Loaded::Serves(plugin) => {
            return host.request_reload(&plugin, ReloadRequest::Watch(attempt));
        }
        Loaded::Ended(_) if instances == AttemptOutcome::Changed => instances,
        // The others need no other outcome than that of the plugin itself.
        Loaded::Ended(AttemptOutcome::Done) => instances,
        Loaded::Ended(outcome) => outcome,
    };
    attempt.outcome.send(outcome);
}

/// What came of the plugin of a folder.
enum Loaded {
    Ended(AttemptOutcome),
    /// It was loaded meanwhile, perhaps with the content before the change.
    Serves(PluginName),
}

/// Loads a plugin that does not serve yet.
fn load(attempt: &FolderAttempt, host: &Arc<Inner>, may_wait_for_removal: bool) -> Loaded {
    let rules = &host.context.rules;
    let content = Content::of(&attempt.folder, rules);
    let candidate = Candidate::read_with(&attempt.folder, rules, &attempt.options);
    let settings = host.context.settings.load();
    if let Ok(candidate) = &candidate
        && settings.is_disabled(candidate.manifest.name())
    {
        return Loaded::Ended(AttemptOutcome::Done);
    }
    let loaded = candidate.and_then(|candidate| host.load(&candidate, Source::Library, None));
    let error = match &loaded {
        Ok(handle) => {
            lock(&attempt.failures.failed).remove(&attempt.folder);
            // Those that were loaded under other names, if the manifest has another one now.
            host.reload_others(&attempt.folder, &[handle.name().clone()]);
            return Loaded::Ended(AttemptOutcome::Changed);
        }
        Err(error) => error,
    };
    if error.kind() == ErrorKind::Duplicate {
        let name = error.plugin().cloned();
        let there = name.as_ref().and_then(|name| host.registry.serving_plugin(name).ok());
        let other = there.and_then(|there| there.folder);
        if other.as_deref() == Some(attempt.folder.as_path()) {
            return name.map_or(Loaded::Ended(AttemptOutcome::Done), Loaded::Serves);
        }
        let is_removed = other.is_none_or(|other| !other.join(MANIFEST).exists());
        if is_removed && may_wait_for_removal {
            attempt.remember(error, content, false);
            return Loaded::Ended(AttemptOutcome::Done);
        }
    }
    let (is_reported, outcome) = attempt.classify(error, content);
    if is_reported {
        warn(&attempt.folder, error);
        host.emit_refused(&attempt.folder, &loaded);
        host.reload_others(&attempt.folder, &[]);
    }
    Loaded::Ended(outcome)
}

/// Loads the instances that the configuration has of a folder, and that do not serve yet. Errors are
/// reported in the final attempt. Returns `Changed` if one was loaded.
fn load_instances(folder: &Path, host: &Arc<Inner>, is_final: bool) -> AttemptOutcome {
    let mut outcome = AttemptOutcome::Done;
    for name in missing_instances(host, folder) {
        let options = Arc::new(LoadOptions::new().with_name(name.as_str()));
        let candidate = Candidate::read_with(folder, &host.context.rules, &options);
        let candidate = candidate.map_err(|error| error.of(&name));
        let loaded = candidate.and_then(|candidate| host.load(&candidate, Source::Library, None));
        match &loaded {
            Ok(_) => outcome = AttemptOutcome::Changed,
            // Another thread loads it.
            Err(error) if error.kind() == ErrorKind::Duplicate => {}
            Err(error) if is_final => {
                warn(folder, error);
                host.emit_refused(folder, &loaded);
            }
            Err(_) if outcome == AttemptOutcome::Done => outcome = AttemptOutcome::MaybeIncomplete,
            Err(_) => {}
        }
    }
    outcome
}

/// Returns the instances that the configuration has of a folder, and that do not serve.
fn missing_instances(host: &Inner, folder: &Path) -> Vec<PluginName> {
    let settings = host.context.settings.load();
    let of_folder = settings.instances().filter(|(_, there)| *there == folder);
    let missing = of_folder.filter(|(name, _)| host.registry.serving_plugin(name).is_err());
    missing.map(|(name, _)| name.clone()).collect()
}

/// Unloads plugins that the folder does not contain anymore.
fn unload(
    attempt: FolderAttempt,
    host: &Arc<Inner>,
    plugins: &[PluginName],
    reason: &str,
    next: Next,
) {
    let mut kept = Vec::new();
    for plugin in plugins {
        let generation = host.registry.info(plugin).and_then(|info| info.generation);
        if let Err(error) = host.unload(plugin.as_str(), UnloadScope::Any) {
            kept.push((plugin, generation, error));
        }
    }
    if kept.is_empty() {
        return match next {
            Next::Load => load_folder(attempt, host, true),
            Next::Nothing => {
                lock(&attempt.failures.failed).remove(&attempt.folder);
                attempt.outcome.send(AttemptOutcome::Changed);
            }
        };
    }
    // Dependents keep them; or another thread unloads them.
    kept.retain(|(_, _, error)| error.kind() == ErrorKind::Requires);
    let is_new =
        kept.first().is_some_and(|(_, _, error)| attempt.remember(error, Content::default(), true));
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
        host.reload_others(&attempt.folder, plugins);
    }
}
