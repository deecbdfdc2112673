//! The parts of a host, and what loads and unloads plugins with them. Decides nothing.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use hotbay_plugin::Snapshot;
use tokio_util::sync::{CancellationToken, DropGuard};

#[cfg(feature = "config-file")]
use super::config_file::ConfigState;
use super::discovery::Discovery;
use super::factories::Factories;
use super::parallel::each;
use super::registry::{Loadable, Registry, UnloadScope, shutting_down};
use super::reload_request::ReloadRequest;
use crate::artifact::signature::Extent;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::{EventBusOwner, HostEvent};
use crate::generation::unload::{Outcome, unload};
use crate::handle::PluginHandle;
use crate::id::{GenerationId, PluginName};
use crate::loader::{Candidate, CoalescingQueue, LoadOptions, LoaderContext, Source};
use crate::middleware::Layers;
use crate::providers::{Choices, Preferences};
use crate::slot::Slot;
use crate::sync::{WaitGroup, after, block_on, deadline_in, lock};
use crate::watch::Watch;

pub(super) struct Inner {
    pub(super) context: Arc<LoaderContext>,
    pub(super) registry: Registry,
    pub(super) dirs: Vec<PathBuf>,
    pub(super) discovery: Box<dyn Discovery>,
    pub(super) factories: Factories,
    pub(super) layers: Layers,
    pub(super) preferences: Preferences,
    /// The choices of providers that were reported.
    pub(super) choices: Choices,
    pub(super) reload_queue: CoalescingQueue<ReloadRequest>,
    /// Loads, reloads, and unloads of replaced generations.
    pub(super) background: Arc<WaitGroup>,
    /// Unloads of single plugins.
    pub(super) unloads: Arc<WaitGroup>,
    /// `None` if nothing is watched, or not anymore.
    pub(super) watch: Mutex<Option<Watch>>,
    #[cfg(feature = "config-file")]
    pub(super) config: Mutex<ConfigState>,
    /// Stops the thread that waits for the application's token.
    pub(super) cancellation: OnceLock<DropGuard>,
    pub(super) _events: EventBusOwner,
}

/// The outcome of [`Host::unload`](crate::Host::unload).
///
/// ```
/// # use hotbay::{Host, Output};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotbay::Error> {
/// let host = Host::builder().register_fn("one", |_, _| Ok(Output::text("1"))).build()?;
/// let report = host.unload("one").await?;
/// assert!(report.shutdown_error.is_none() && report.retain_reason.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct UnloadReport {
    /// The plugin.
    pub plugin: PluginName,
    /// The generation that was unloaded; `None` if none served.
    pub generation: Option<GenerationId>,
    /// The error, panic or timeout of the plugin's `shutdown`.
    pub shutdown_error: Option<Error>,
    /// Bytes that the plugin did not free; `None` if it does not count them or stays mapped.
    pub leaked_bytes: Option<i64>,
    /// The reason the library stays mapped; `None` if it was unmapped, or if there is no
    /// library.
    pub retain_reason: Option<String>,
}

/// A library that stays mapped after the unload of its plugin: see [`Host::retained`](crate::Host::retained).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetainedLibrary {
    /// The plugin.
    pub plugin: PluginName,
    /// The generation; `None` if it never served.
    pub generation: Option<GenerationId>,
    /// The reason it stays mapped.
    pub reason: String,
}

impl Inner {
    /// Runs `run` on a new thread. A shutdown waits until it has returned and everything that it
    /// holds is dropped: the last owner of the host removes the host's folder.
    pub(super) fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let running = self.background.start();
        let run = move || {
            run();
            drop(running);
        };
        thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
    }

    pub(super) fn load_folder(
        &self,
        folder: &Path,
        options: &Arc<LoadOptions>,
        state: Option<Snapshot>,
    ) -> Result<PluginHandle, Error> {
        let candidate = Candidate::read_with(folder, &self.context.rules, options);
        let loaded = candidate.and_then(|candidate| self.load(&candidate, Source::Library, state));
        self.emit_refused(folder, &loaded);
        loaded
    }

    /// Loads a candidate if its name is free and its requirements are met.
    pub(super) fn load(
        &self,
        candidate: &Candidate,
        source: Source,
        state: Option<Snapshot>,
    ) -> Result<PluginHandle, Error> {
        // Counted first, so that a shutdown that does not find the plugin waits for its load.
        let _running = self.background.start();
        let settings = self.context.settings.load();
        let candidate = &candidate.clone().with_settings(&settings, &self.context.confinement)?;
        let reservation = self.registry.reserve(candidate)?;
        let rules = &self.context.rules;
        let candidate = &candidate.clone().verify_signature(rules, Extent::Contents)?;
        self.check_retained(candidate)?;
        let layers = self.layers.of(&candidate.manifest)?;
        let loaded = crate::loader::load(&self.context, candidate, source, state)?;
        let handle = PluginHandle::new(Arc::clone(&loaded.slot), &layers);
        match reservation.fill(handle.clone(), loaded) {
            Ok(event) => {
                self.context.events.emit(event);
                Ok(handle)
            }
            // The host was shut down meanwhile.
            Err(late) => {
                self.end(&late, Duration::ZERO);
                Err(shutting_down())
            }
        }
    }

    pub(super) fn emit_refused<T>(&self, folder: &Path, loaded: &Result<T, Error>) {
        let Err(error) = loaded else { return };
        let plugin = match error.plugin() {
            Some(plugin) => plugin.to_string(),
            None => folder.display().to_string(),
        };
        let reason = error.full_message();
        let hint = error.hint().map(str::to_owned);
        self.context.events.emit(HostEvent::Refused { plugin, reason, hint });
    }

    /// Fails if too many libraries stay mapped.
    pub(super) fn check_retained(&self, next: &Candidate) -> Result<(), Error> {
        let keeper = &self.context.deferred_unloads;
        let (kept, max_kept) = (keeper.count(), self.context.limits.max_retained_libraries);
        if kept < max_kept as usize {
            return Ok(());
        }
        let libraries = match kept {
            1 => "1 library of an earlier build stays".to_owned(),
            _ => format!("{kept} libraries of earlier builds stay"),
        };
        let message =
            format!("{libraries} mapped ({}); the maximum is {max_kept}", keeper.totals());
        let hint = "fix the problems that `Host::retained` reports, raise `max_retained_libraries`, or \
                    restart the program to unmap the libraries";
        let failed = next.failed(LoadStep::Open, ErrorKind::Overloaded);
        Err(failed.caused_by(message).with_hint(hint))
    }

    /// Returns the plugins that serve from a folder, by any of its paths.
    pub(super) fn serving_from(&self, folder: &Path) -> Vec<Loadable> {
        let mut serving = self.registry.serving();
        let canonical = folder.canonicalize().ok();
        serving.retain(|plugin| {
            let Some(loaded) = &plugin.folder else { return false };
            let is_same = |folder: &Path| loaded.canonicalize().is_ok_and(|it| it == folder);
            loaded == folder || canonical.as_deref().is_some_and(is_same)
        });
        serving
    }

    pub(super) fn unload(&self, name: &str, scope: UnloadScope) -> Result<UnloadReport, Error> {
        // Counted first, so that a shutdown that does not find the plugin waits for its unload.
        let _running = self.unloads.start();
        let unloading = self.registry.begin_unload(name, scope)?;
        let slot = unloading.slot();
        let (generation, outcome) = self.end(slot, self.context.limits.drain_timeout);
        // A reload in progress ends its own build. The name is free after that.
        let timeout = self.context.limits.start_timeout;
        self.reload_queue.wait(&slot.name, deadline_in(timeout));
        let Outcome { shutdown_error, leaked_bytes, retain_reason } = outcome;
        let plugin = slot.name.clone();
        Ok(UnloadReport { plugin, generation, shutdown_error, leaked_bytes, retain_reason })
    }

    pub(super) fn shutdown(&self, grace: Duration) {
        let deadline = deadline_in(grace);
        // Joined before anything is locked: the watch may wait for the same locks.
        let watch = lock(&self.watch).take();
        drop(watch);
        #[cfg(feature = "config-file")]
        lock(&self.config).stop_watching();
        let Some(leaving) = self.registry.close() else {
            return self.registry.shutdown.wait();
        };
        // Opens after a panic too, so that no thread waits forever.
        let _opens = self.registry.shutdown.open_on_drop();
        for slot in leaving.iter().flatten() {
            slot.begin_shutdown();
        }
        if !grace.is_zero() {
            for slot in leaving.iter().flatten() {
                slot.drain_queue(deadline);
            }
            // They may need the plugins that they require.
            self.unloads.wait_idle(after(deadline, self.context.limits.stop_timeout));
        }
        for level in leaving {
            each(&level, |slot| {
                self.end(slot, deadline.saturating_duration_since(Instant::now()));
            });
        }
        if !grace.is_zero() {
            let stop_timeout = self.context.limits.stop_timeout;
            self.background.wait_idle(after(deadline, stop_timeout));
        }
        self.context.events.emit(HostEvent::Stopped);
    }

    fn end(&self, slot: &Slot, drain_timeout: Duration) -> (Option<GenerationId>, Outcome) {
        let Some(generation) = slot.vacate() else { return (None, Outcome::default()) };
        let LoaderContext { limits, deferred_unloads, .. } = &*self.context;
        (Some(generation.id), unload(&generation, drain_timeout, limits, deferred_unloads))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
        self.context.deferred_unloads.end();
    }
}

/// Starts a thread that shuts `host` down when `token` is cancelled. Dropping the guard stops the
/// thread.
pub(super) fn shut_down_with(
    host: &Arc<Inner>,
    token: CancellationToken,
) -> Result<DropGuard, Error> {
    let host = Arc::downgrade(host);
    let dropped = CancellationToken::new();
    let guard = dropped.clone().drop_guard();
    let wait = move || {
        let cancelled = token.run_until_cancelled(dropped.cancelled());
        let is_dropped = block_on(pin!(cancelled)).is_some();
        if let Some(host) = Weak::upgrade(&host).filter(|_| !is_dropped) {
            host.shutdown(host.context.limits.drain_timeout);
        }
    };
    let spawned = std::thread::Builder::new().name("hotbay-cancel".to_owned()).spawn(wait);
    spawned.map_err(|error| {
        let message = "cannot start the thread that waits for the cancellation of the host";
        Error::new(ErrorKind::Overloaded, message).caused_by(error)
    })?;
    Ok(guard)
}

/// Resolves a path against the current working directory. One that cannot be resolved is returned
/// as is, and fails when it is read.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
