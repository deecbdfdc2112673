//! What is done about a folder that settled: load, reload, unload, or wait for the other half.
//! Never keeps the host alive, and does nothing that takes long on the thread of the watch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::{Inner, Reloaded, reload};
use crate::artifact::discover::MANIFEST;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::id::PluginName;
use crate::reload::{Attempt, AttemptOutcome, Candidate, Content, OutcomeSender, Rules, Source};
use crate::reload::{ChangeHandler, Watch, WatchOptions};
use crate::sync::lock;

/// Looks at the folders of one host.
#[derive(Debug)]
pub(super) struct FolderWatcher {
    host: Weak<Inner>,
    rules: Rules,
    unload_removed: bool,
    failures: Arc<FailureLog>,
}

/// What failed, by folder, so that nothing is told or tried twice for nothing.
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
    /// Content and reason of the failure that was reported last, if that is another one.
    reported: Option<(Content, String)>,
}

impl Failure {
    /// Whether something that happens elsewhere may be the cure.
    fn waits(&self) -> bool {
        matches!(self.kind, ErrorKind::Requires | ErrorKind::Duplicate)
    }
}

/// What is to be done about a folder once nothing serves from it.
enum Next {
    Load,
    Nothing,
}

/// One look at one folder.
#[derive(Debug)]
pub(super) struct FolderAttempt {
    folder: PathBuf,
    attempt: Attempt,
    failures: Arc<FailureLog>,
    outcome: OutcomeSender,
}

impl FolderWatcher {
    pub(super) fn new(host: &Arc<Inner>, unload_removed: bool) -> Self {
        let rules = host.workshop.rules.clone();
        Self { host: Arc::downgrade(host), rules, unload_removed, failures: Arc::default() }
    }
}

impl ChangeHandler for FolderWatcher {
    fn run(&mut self, folder: &Path, look: Attempt, answerer: OutcomeSender) {
        let Some(host) = self.host.upgrade() else { return };
        let memory = Arc::clone(&self.failures);
        let visit = FolderAttempt {
            folder: folder.to_owned(),
            attempt: look,
            failures: memory,
            outcome: answerer,
        };
        let serving = host.serving_from(folder);
        let is_there = folder.join(MANIFEST).exists();
        match serving {
            None if !is_there => {
                lock(&self.failures.failed).remove(folder);
                visit.outcome.send(AttemptOutcome::Removed);
            }
            Some(_) if !is_there && look == Attempt::Tentative => {
                visit.outcome.send(AttemptOutcome::MaybeIncomplete);
            }
            Some(_) if !is_there && !self.unload_removed => {}
            Some(plugin) if !is_there => {
                on_thread(move || {
                    visit.retire(&host, &plugin, "its folder is gone", Next::Nothing)
                });
            }
            _ if visit.is_known(&self.rules) => {}
            Some(plugin) if look == Attempt::Final => match Candidate::read(folder, &self.rules) {
                Ok(next) if *next.manifest.name() != plugin => on_thread(move || {
                    let why = format!("its folder holds `{}` now", next.manifest.name());
                    visit.retire(&host, &plugin, &why, Next::Load);
                }),
                _ => host.request_reload(&plugin, reload::Request::Watch(visit)),
            },
            Some(plugin) => host.request_reload(&plugin, reload::Request::Watch(visit)),
            None => {
                let unload_removed = self.unload_removed;
                on_thread(move || visit.load(&host, unload_removed));
            }
        }
    }

    fn waiting(&mut self) -> Vec<PathBuf> {
        let failed = lock(&self.failures.failed);
        let waiting = failed.iter().filter(|(_, failure)| failure.waits());
        waiting.map(|(folder, _)| folder.clone()).collect()
    }
}

impl Inner {
    /// Watches the plugin directories from here on.
    pub(super) fn watch(
        self: &Arc<Self>,
        poll_interval: Option<Duration>,
        unload_removed: bool,
    ) -> Result<(), Error> {
        let rules = self.workshop.rules.clone();
        let watching = WatchOptions { dirs: self.dirs.clone(), rules, poll_interval };
        let watch = Watch::start(watching, FolderWatcher::new(self, unload_removed));
        let watch = watch.map_err(|error| {
            let message = "the system gave no thread to watch the plugin directories on";
            Error::new(ErrorKind::Overloaded, message).caused_by(error)
        })?;
        *lock(&self.watch) = Some(watch);
        Ok(())
    }

    /// What serves from a folder, by whatever path that is known.
    fn serving_from(&self, folder: &Path) -> Option<PluginName> {
        let serving = self.table.serving();
        let place = |is_it: &dyn Fn(&Path) -> bool| {
            let there = serving.iter().find(|(_, there)| there.as_deref().is_some_and(is_it));
            there.map(|(manifest, _)| manifest.name().clone())
        };
        place(&|there| there == folder).or_else(|| {
            let folder = folder.canonicalize().ok()?;
            place(&|there| there.canonicalize().is_ok_and(|there| there == folder))
        })
    }
}

impl FolderAttempt {
    /// Whether this very content failed before and nothing else can have mended it.
    fn is_known(&self, rules: &Rules) -> bool {
        let failure = lock(&self.failures.failed).get(&self.folder).cloned();
        let failure = failure.filter(|failure| failure.is_reported && !failure.waits());
        failure.is_some_and(|failure| failure.content == Content::of(&self.folder, rules))
    }

    /// Loads what nobody serves yet.
    fn load(self, host: &Arc<Inner>, may_wait_for_removal: bool) {
        let rules = &host.workshop.rules;
        let content = Content::of(&self.folder, rules);
        let candidate = Candidate::read(&self.folder, rules);
        let loaded = candidate.and_then(|candidate| host.load(&candidate, Source::Library, None));
        let Err(error) = &loaded else {
            lock(&self.failures.failed).remove(&self.folder);
            return self.outcome.send(AttemptOutcome::Changed);
        };
        if error.kind() == ErrorKind::Duplicate {
            let name = error.plugin().cloned();
            let there = name.as_ref().and_then(|name| host.table.serving_plugin(name).ok());
            let other = there.and_then(|there| there.folder);
            if other.as_deref() == Some(self.folder.as_path()) {
                // Somebody else loaded it meanwhile; perhaps what was there before.
                let Some(name) = name else { return };
                return host.request_reload(&name, reload::Request::Watch(self));
            }
            let leaves = other.is_none_or(|other| !other.join(MANIFEST).exists());
            if leaves && may_wait_for_removal {
                self.remember(error, content, false);
                return;
            }
        }
        let (is_told, answer) = self.classify(error, content);
        if is_told {
            warn(&self.folder, error);
            host.emit_refused(&self.folder, &loaded);
        }
        self.outcome.send(answer);
    }

    /// Takes what a reload came to; answers whether a failure is to be told.
    pub(super) fn reloaded(self, reloaded: &Result<Reloaded, Error>, content: Content) -> bool {
        let (is_told, answer) = match reloaded {
            Ok(Reloaded::Promoted(_)) => (true, AttemptOutcome::Changed),
            Ok(Reloaded::Unchanged) => (true, AttemptOutcome::Done),
            Err(error) => self.classify(error, content),
        };
        match reloaded {
            Ok(_) => drop(lock(&self.failures.failed).remove(&self.folder)),
            Err(error) if is_told => warn(&self.folder, error),
            Err(_) => {}
        }
        self.outcome.send(answer);
        is_told
    }

    /// Unloads what the folder does not hold any more.
    fn retire(self, host: &Arc<Inner>, plugin: &PluginName, why: &str, next: Next) {
        let generation = host.table.info(plugin).and_then(|info| info.generation);
        let error = match (host.unload(plugin.as_str()), next) {
            (Ok(()), Next::Load) => return self.load(host, true),
            (Ok(()), Next::Nothing) => {
                lock(&self.failures.failed).remove(&self.folder);
                return self.outcome.send(AttemptOutcome::Changed);
            }
            (Err(error), _) if error.kind() != ErrorKind::Requires => return,
            (Err(error), _) => error,
        };
        if self.remember(&error, Content::default(), true) {
            host.workshop.events.emit(HostEvent::RolledBack {
                plugin: plugin.clone(),
                generation,
                step: Some(LoadStep::Requires),
                reason: format!("{why}, and it stays loaded: {}", error.full_message()),
                hint: error.hint().map(str::to_owned),
            });
        }
    }

    /// Whether a failure is to be told now, and whether the other half may still come.
    fn classify(&self, error: &Error, content: Content) -> (bool, AttemptOutcome) {
        use ErrorKind::{NotFound, Retired, Shutdown, Superseded};
        if matches!(error.kind(), NotFound | Retired | Shutdown | Superseded) {
            // Somebody else does it, or there is nothing any more to do it to.
            return (false, AttemptOutcome::Done);
        }
        let before_it_runs = error.step().is_some_and(|step| step < LoadStep::Open);
        let may_be_half = before_it_runs || error.kind() == ErrorKind::Duplicate;
        let is_doubtful = self.attempt == Attempt::Tentative && may_be_half;
        let is_news = self.remember(error, content, !is_doubtful);
        let answer =
            if is_doubtful { AttemptOutcome::MaybeIncomplete } else { AttemptOutcome::Done };
        (is_news && !is_doubtful, answer)
    }

    /// Answers whether this was not told before.
    fn remember(&self, error: &Error, content: Content, is_told: bool) -> bool {
        let (reason, kind) = (error.full_message(), error.kind());
        let mut failed = lock(&self.failures.failed);
        // What was not reported does not hide what was: files are written one after the other, and
        // may be incomplete in between.
        let reported = failed.remove(&self.folder).and_then(|before| match before.is_reported {
            true => Some((before.content, before.reason)),
            false => before.reported,
        });
        let is_same = |(before, why): &(Content, String)| *before == content && *why == reason;
        let was_told = reported.as_ref().is_some_and(is_same);
        let is_told = is_told || was_told;
        let reported = reported.filter(|_| !is_told);
        let failure = Failure { content, reason, kind, is_reported: is_told, reported };
        failed.insert(self.folder.clone(), failure);
        !was_told
    }
}

fn warn(folder: &Path, error: &Error) {
    let (folder, reason) = (folder.display(), error.full_message());
    tracing::warn!(%folder, reason, "what changed was refused");
}

fn on_thread(work: impl FnOnce() + Send + 'static) {
    let spawned = std::thread::Builder::new().name("hotbay-load".to_owned()).spawn(work);
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for what the watch found");
    }
}
