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
use crate::reload::{Answer, Answerer, Candidate, Content, Look, Rules, Source};
use crate::reload::{Visitor, Watch, Watching};
use crate::sync::lock;

/// Looks at the folders of one host.
#[derive(Debug)]
pub(super) struct Watcher {
    host: Weak<Inner>,
    rules: Rules,
    retire_removed: bool,
    memory: Arc<Memory>,
}

/// What failed, by folder, so that nothing is told or tried twice for nothing.
#[derive(Debug, Default)]
struct Memory {
    failed: Mutex<BTreeMap<PathBuf, Failure>>,
}

#[derive(Debug, Clone)]
struct Failure {
    content: Content,
    reason: String,
    kind: ErrorKind,
    is_told: bool,
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
pub(super) struct Visit {
    folder: PathBuf,
    look: Look,
    memory: Arc<Memory>,
    answerer: Answerer,
}

impl Watcher {
    pub(super) fn new(host: &Arc<Inner>, retire_removed: bool) -> Self {
        let rules = host.workshop.rules.clone();
        Self { host: Arc::downgrade(host), rules, retire_removed, memory: Arc::default() }
    }
}

impl Visitor for Watcher {
    fn look(&mut self, folder: &Path, look: Look, answerer: Answerer) {
        let Some(host) = self.host.upgrade() else { return };
        let memory = Arc::clone(&self.memory);
        let visit = Visit { folder: folder.to_owned(), look, memory, answerer };
        let serving = host.serving_from(folder);
        let is_there = folder.join(MANIFEST).exists();
        match serving {
            None if !is_there => {
                lock(&self.memory.failed).remove(folder);
                visit.answerer.answer(Answer::Gone);
            }
            Some(_) if !is_there && look == Look::First => {
                visit.answerer.answer(Answer::Doubtful);
            }
            Some(_) if !is_there && !self.retire_removed => {}
            Some(plugin) if !is_there => {
                on_thread(move || {
                    visit.retire(&host, &plugin, "its folder is gone", Next::Nothing)
                });
            }
            _ if visit.is_known(&self.rules) => {}
            Some(plugin) if look == Look::Last => match Candidate::read(folder, &self.rules) {
                Ok(next) if *next.manifest.name() != plugin => on_thread(move || {
                    let why = format!("its folder holds `{}` now", next.manifest.name());
                    visit.retire(&host, &plugin, &why, Next::Load);
                }),
                _ => host.request_reload(&plugin, reload::Request::Watch(visit)),
            },
            Some(plugin) => host.request_reload(&plugin, reload::Request::Watch(visit)),
            None => {
                let retire_removed = self.retire_removed;
                on_thread(move || visit.load(&host, retire_removed));
            }
        }
    }

    fn waiting(&mut self) -> Vec<PathBuf> {
        let failed = lock(&self.memory.failed);
        let waiting = failed.iter().filter(|(_, failure)| failure.waits());
        waiting.map(|(folder, _)| folder.clone()).collect()
    }
}

impl Inner {
    /// Watches the plugin directories from here on.
    pub(super) fn watch(
        self: &Arc<Self>,
        poll_interval: Option<Duration>,
        retire_removed: bool,
    ) -> Result<(), Error> {
        let rules = self.workshop.rules.clone();
        let watching = Watching { dirs: self.dirs.clone(), rules, poll_interval };
        let watch = Watch::start(watching, Watcher::new(self, retire_removed));
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

impl Visit {
    /// Whether this very content failed before and nothing else can have mended it.
    fn is_known(&self, rules: &Rules) -> bool {
        let failure = lock(&self.memory.failed).get(&self.folder).cloned();
        let failure = failure.filter(|failure| failure.is_told && !failure.waits());
        failure.is_some_and(|failure| failure.content == Content::of(&self.folder, rules))
    }

    /// Loads what nobody serves yet.
    fn load(self, host: &Arc<Inner>, may_wait_for_removal: bool) {
        let rules = &host.workshop.rules;
        let content = Content::of(&self.folder, rules);
        let candidate = Candidate::read(&self.folder, rules);
        let loaded = candidate.and_then(|candidate| host.load(&candidate, Source::Library, None));
        let Err(error) = &loaded else {
            lock(&self.memory.failed).remove(&self.folder);
            return self.answerer.answer(Answer::Changed);
        };
        if error.kind() == ErrorKind::Duplicate {
            let name = error.plugin().cloned();
            let there = name.as_ref().and_then(|name| host.table.there(name).ok());
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
        let (is_told, answer) = self.judge(error, content);
        if is_told {
            warn(&self.folder, error);
            host.tell_refusal(&self.folder, &loaded);
        }
        self.answerer.answer(answer);
    }

    /// Takes what a reload came to; answers whether a failure is to be told.
    pub(super) fn reloaded(self, reloaded: &Result<Reloaded, Error>, content: Content) -> bool {
        let (is_told, answer) = match reloaded {
            Ok(Reloaded::Promoted(_)) => (true, Answer::Changed),
            Ok(Reloaded::Unchanged) => (true, Answer::Done),
            Err(error) => self.judge(error, content),
        };
        match reloaded {
            Ok(_) => drop(lock(&self.memory.failed).remove(&self.folder)),
            Err(error) if is_told => warn(&self.folder, error),
            Err(_) => {}
        }
        self.answerer.answer(answer);
        is_told
    }

    /// Unloads what the folder does not hold any more.
    fn retire(self, host: &Arc<Inner>, plugin: &PluginName, why: &str, next: Next) {
        let generation = host.table.info(plugin).and_then(|info| info.generation);
        let error = match (host.unload(plugin.as_str()), next) {
            (Ok(()), Next::Load) => return self.load(host, true),
            (Ok(()), Next::Nothing) => {
                lock(&self.memory.failed).remove(&self.folder);
                return self.answerer.answer(Answer::Changed);
            }
            (Err(error), _) if error.kind() != ErrorKind::Requires => return,
            (Err(error), _) => error,
        };
        if self.remember(&error, Content::default(), true) {
            host.workshop.board.tell(HostEvent::RolledBack {
                plugin: plugin.clone(),
                generation,
                step: Some(LoadStep::Requires),
                reason: format!("{why}, and it stays loaded: {}", error.full_message()),
            });
        }
    }

    /// Whether a failure is to be told now, and whether the other half may still come.
    fn judge(&self, error: &Error, content: Content) -> (bool, Answer) {
        use ErrorKind::{NotFound, Retired, Shutdown, Superseded};
        if matches!(error.kind(), NotFound | Retired | Shutdown | Superseded) {
            // Somebody else does it, or there is nothing any more to do it to.
            return (false, Answer::Done);
        }
        let before_it_runs = error.step().is_some_and(|step| step < LoadStep::Open);
        let may_be_half = before_it_runs || error.kind() == ErrorKind::Duplicate;
        let is_doubtful = self.look == Look::First && may_be_half;
        let is_news = self.remember(error, content, !is_doubtful);
        let answer = if is_doubtful { Answer::Doubtful } else { Answer::Done };
        (is_news && !is_doubtful, answer)
    }

    /// Answers whether this was not told before.
    fn remember(&self, error: &Error, content: Content, is_told: bool) -> bool {
        let (reason, kind) = (error.full_message(), error.kind());
        let mut failed = lock(&self.memory.failed);
        let before = failed.get(&self.folder);
        let was_told = before.is_some_and(|before| {
            before.is_told && before.content == content && before.reason == reason
        });
        let is_told = is_told || was_told;
        failed.insert(self.folder.clone(), Failure { content, reason, kind, is_told });
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
