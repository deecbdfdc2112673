//! Owns and wires every room; decides nothing.

mod builder;
mod caching;
mod function;
mod info;
mod inspect;
mod load_all;
mod not_found;
mod providers;
mod registry;
mod reload;
mod shutdown_latch;
mod stats;
mod watching;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hotbay_plugin::Snapshot;
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind};
use crate::event::{EventBusOwner, Events};
use crate::generation::unload::unload;
use crate::handle::PluginHandle;
use crate::id::PluginName;
use crate::layers::Layers;
use crate::pipeline::{Find, Pipeline, PipelineStep};
use crate::providers::{Choices, Preferences};
use crate::reload::{Candidate, CoalescingQueue, LoaderContext, Source, Watch};
use crate::sync::{SameProcess, WaitGroup, lock};
pub use builder::HostBuilder;
pub use info::PluginInfo;
pub use load_all::{LoadReport, LoadedPlugin, RefusedPlugin};
use registry::Registry;
pub use reload::Reloaded;
use reload::Request;

/// A plugin host. Cheap to clone; dropping the last clone is a shutdown without grace.
///
/// Its futures run on any executor: the work is done on threads of the host's own.
///
/// A host belongs to the process that built it. After a `fork`, everything that the child does
/// with it fails with [`ErrorKind::Forked`] or returns nothing, and dropping it there does
/// nothing; the child may build a host of its own.
#[derive(Clone)]
pub struct Host {
    inner: SameProcess<Arc<Inner>>,
}

struct Inner {
    workshop: Arc<LoaderContext>,
    table: Registry,
    dirs: Vec<PathBuf>,
    layers: Layers,
    preferences: Preferences,
    /// Which providers were told.
    choices: Choices,
    desk: CoalescingQueue<Request>,
    /// Reloads and ends that go on beside the callers.
    busy: Arc<WaitGroup>,
    /// None where nothing is watched, or not any more.
    watch: Mutex<Option<Watch>>,
    _board: EventBusOwner,
}

impl Host {
    /// Starts to configure a host.
    pub fn builder() -> HostBuilder {
        HostBuilder::new()
    }

    /// Loads every plugin below the plugin directories that is not there yet, in the order of
    /// `requires`, several at once. One bad plugin never keeps the others from loading.
    pub async fn load_all(&self) -> LoadReport {
        if let Err(error) = self.check_process() {
            return load_all::refused(&self.inner.dirs, error);
        }
        let host = self.clone();
        on_thread("hotbay-load", move || load_all::load_all(&host.inner)).await.unwrap_or_default()
    }

    /// Loads the plugin of one folder.
    ///
    /// On 64-bit Linux, what its library links and what lies in the folder is loaded with it, from
    /// private copies: found by the library's search path as far as that leads into the folder
    /// (`$ORIGIN`, `$ORIGIN/lib`), beside the file that links it, or in the folder itself, which
    /// comes before the system's directories. Such files must meet the rules for the library
    /// itself: owner, mode, no links out of the folder, and all of them together within the
    /// limit for one library. The `sha256` of the manifest covers the library alone. A plugin that
    /// links anything but the C library stays mapped when it is unloaded.
    ///
    /// # Errors
    ///
    /// By the step that failed, see [`Error::step`]; nothing of the plugin is left then.
    /// `Duplicate` when a plugin of its name is there already, `Shutdown`.
    pub async fn load(&self, folder: impl AsRef<Path>) -> Result<PluginHandle, Error> {
        self.check_process()?;
        let host = self.clone();
        let folder = absolute(folder.as_ref());
        on_thread("hotbay-load", move || host.inner.load_folder(&folder, None)).await?
    }

    /// Loads the plugin of one folder and gives it a state before its first call.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub async fn load_with_state(
        &self,
        folder: impl AsRef<Path>,
        state: Snapshot,
    ) -> Result<PluginHandle, Error> {
        self.check_process()?;
        let host = self.clone();
        let folder = absolute(folder.as_ref());
        on_thread("hotbay-load", move || host.inner.load_folder(&folder, Some(state))).await?
    }

    /// Finds a plugin that serves.
    ///
    /// # Errors
    ///
    /// `NotFound`, naming the nearest name that is there.
    pub fn plugin(&self, name: &str) -> Result<PluginHandle, Error> {
        self.inner.table.find(name)
    }

    /// Puts plugins in a row; see [`Pipeline`]. They are looked up again at each run, so a
    /// plugin that was swapped is used at once.
    ///
    /// # Errors
    ///
    /// `NotFound` when one of them is not there, or none is named.
    pub fn pipeline<S>(&self, steps: impl IntoIterator<Item = S>) -> Result<Pipeline, Error>
    where
        S: Into<PipelineStep>,
    {
        let steps = steps.into_iter().map(Into::into).collect();
        Pipeline::new(steps, Arc::new(Finder(Arc::downgrade(&self.inner))))
    }

    /// Everything that serves, sorted by name.
    pub fn list(&self) -> Vec<PluginInfo> {
        self.inner.table.list()
    }

    /// Libraries that stay mapped although their plugins are gone: plugin, generation if it
    /// ever served, and why.
    pub fn retained(&self) -> Vec<RetainedLibrary> {
        if self.check_process().is_err() {
            return Vec::new();
        }
        let kept = self.inner.workshop.deferred_unloads.list();
        let kept = kept.into_iter();
        kept.map(|(plugin, generation, reason)| RetainedLibrary { plugin, generation, reason })
            .collect()
    }

    /// Ends a plugin: no new calls, those that run go on to their end, then shutdown and close.
    ///
    /// Calls that wait in its queue are answered with `Retired`. What became of the library is
    /// told as an event: `Closed` or `Kept`.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Requires` when other plugins need it, naming them.
    pub async fn unload(&self, name: &str) -> Result<(), Error> {
        self.check_process()?;
        let host = self.clone();
        let name = name.to_owned();
        on_thread("hotbay-unload", move || host.inner.unload(&name)).await?
    }

    /// Replaces a plugin by what lies in its folder now, while calls are in flight.
    ///
    /// The new build is checked and started beside the old one and takes over its state; then
    /// new calls go to it, and the old one drains and ends. Answers once the new build serves;
    /// what became of the old one is told as an event. Without a change nothing is done, unless
    /// the plugin is quarantined: then the same build is started as a new generation.
    ///
    /// # Errors
    ///
    /// By the step that failed, see [`Error::step`]: the old build goes on serving, and nothing
    /// is left of the new one. `NotFound`; `Requires` when a plugin that requires this one does
    /// not accept the new version; `Superseded` when a later request took this one's place.
    pub async fn reload(&self, name: &str) -> Result<Reloaded, Error> {
        let plugin = self.inner.table.find(name)?.name().clone();
        let (teller, ticket) = oneshot::channel();
        self.inner.request_reload(&plugin, Request::Caller(teller));
        let reloaded = ticket.await;
        reloaded.unwrap_or_else(|_| Err(crate::error::bug!("the reload of `{plugin}` was lost")))
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        self.inner.workshop.events.subscribe()
    }

    /// Ends every plugin, those that require others first.
    ///
    /// No new calls are taken: `Shutdown`. Those that run and those that wait in queues have
    /// `grace` to end; what still waits then is told `Shutdown`, and what still runs is kept,
    /// with an event. May be called again, and from several places at once: all come back when
    /// it is done.
    pub async fn shutdown(&self, grace: Duration) {
        if self.check_process().is_err() {
            return;
        }
        let host = self.clone();
        let done = on_thread("hotbay-shutdown", move || host.inner.shutdown(grace));
        // Without a thread for it the drop of the last host does the same.
        let _ = done.await;
    }

    fn check_process(&self) -> Result<(), Error> {
        if self.inner.is_current() { Ok(()) } else { Err(Error::forked()) }
    }
}

/// A library that stays mapped although its plugin is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetainedLibrary {
    /// The plugin.
    pub plugin: crate::id::PluginName,
    /// The generation; none if it never served.
    pub generation: Option<crate::id::GenerationId>,
    /// Why.
    pub reason: String,
}

/// Finds plugins for a pipeline, which keeps no host alive.
struct Finder(Weak<Inner>);

impl Find for Finder {
    fn find(&self, name: &PluginName) -> Result<PluginHandle, Error> {
        let inner = self.0.upgrade().ok_or_else(shutting_down)?;
        inner.table.find(name.as_str())
    }
}

/// Does `work` on a thread of its own, so that no executor is blocked.
async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (teller, ticket) = oneshot::channel();
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = teller.send(work());
    });
    spawned.map_err(|error| {
        Error::new(ErrorKind::Overloaded, "the system gave no thread for this").caused_by(error)
    })?;
    ticket.await.map_err(|_| crate::error::bug!("the thread `{name}` ended without a word"))
}

impl Inner {
    fn load_folder(&self, folder: &Path, state: Option<Snapshot>) -> Result<PluginHandle, Error> {
        let candidate = Candidate::read(folder, &self.workshop.rules);
        let loaded = candidate.and_then(|candidate| self.load(&candidate, Source::Library, state));
        self.emit_refused(folder, &loaded);
        loaded
    }

    /// Loads one candidate whose name is free and whose requirements are there.
    fn load(
        &self,
        candidate: &Candidate,
        source: Source,
        state: Option<Snapshot>,
    ) -> Result<PluginHandle, Error> {
        let place = self.table.reserve(candidate)?;
        self.make_room(candidate)?;
        let applied = self.layers.of(&candidate.manifest)?;
        let loaded = crate::reload::load(&self.workshop, candidate, source, state)?;
        let handle = PluginHandle::new(Arc::clone(&loaded.slot), &applied);
        match place.fill(handle.clone(), loaded) {
            Ok(event) => {
                self.workshop.events.emit(event);
                Ok(handle)
            }
            // The host was shut down meanwhile.
            Err(late) => {
                self.end(&late, Duration::ZERO);
                Err(shutting_down())
            }
        }
    }

    fn unload(&self, name: &str) -> Result<(), Error> {
        let leaving = self.table.begin_unload(name)?;
        self.end(leaving.slot(), self.workshop.limits.drain_timeout);
        // A reload that was under way ends its own build; the name is free after that.
        let wait_max = self.workshop.limits.start_timeout;
        self.desk.wait(&leaving.slot().name, crate::sync::deadline_in(wait_max));
        drop(leaving);
        Ok(())
    }

    fn shutdown(&self, grace: Duration) {
        let deadline = crate::sync::deadline_in(grace);
        // Joined while nothing is locked: the watch may be asking for the same locks.
        let watch = lock(&self.watch).take();
        drop(watch);
        let Some(leaving) = self.table.close() else {
            // Somebody else does it; done when that is done.
            return self.table.shutdown.wait();
        };
        // Whatever panics on the way, nobody waits for ever.
        let _opens = self.table.shutdown.open_on_drop();
        for slot in &leaving {
            slot.begin_shutdown();
        }
        if !grace.is_zero() {
            for slot in &leaving {
                slot.drain_queue(deadline);
            }
        }
        for slot in leaving {
            self.end(&slot, deadline.saturating_duration_since(std::time::Instant::now()));
        }
        if !grace.is_zero() {
            let stop_timeout = self.workshop.limits.stop_timeout;
            self.busy.wait_idle(crate::sync::after(deadline, stop_timeout));
        }
        self.workshop.events.emit(crate::event::HostEvent::Stopped);
    }

    fn end(&self, slot: &crate::slot::Slot, drain_timeout: Duration) {
        if let Some(generation) = slot.vacate() {
            let LoaderContext { limits, deferred_unloads, .. } = &*self.workshop;
            unload(&generation, drain_timeout, limits, deferred_unloads);
        }
    }

    fn emit_refused<T>(&self, folder: &Path, loaded: &Result<T, Error>) {
        let Err(error) = loaded else { return };
        let plugin = match error.plugin() {
            Some(plugin) => plugin.to_string(),
            None => folder.display().to_string(),
        };
        let reason = error.full_message();
        let hint = error.hint().map(str::to_owned);
        self.workshop.events.emit(crate::event::HostEvent::Refused { plugin, reason, hint });
    }
}

/// The path as it is meant now, whatever becomes of the working directory. One that has no such
/// form stays as it is, and is refused when it is read.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn shutting_down() -> Error {
    Error::new(ErrorKind::Shutdown, "the host is shut down; build a new one")
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
        self.workshop.deferred_unloads.end();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("plugins", &self.inner.table.names()).finish_non_exhaustive()
    }
}
