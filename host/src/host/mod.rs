//! Owns and connects the parts of a host; decides nothing.

mod builder;
mod caching;
mod cancellation;
mod discovery;
mod function;
mod info;
mod load_all;
mod not_found;
mod providers;
mod registry;
mod reload;
mod runtime;
mod shutdown_latch;
mod unload;
mod watching;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use hotbay_plugin::Snapshot;
use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use crate::error::{Error, ErrorKind};
use crate::event::{EventBusOwner, Events};
use crate::handle::PluginHandle;
use crate::id::PluginName;
use crate::metrics::PluginInfo;
use crate::middleware::Layers;
use crate::pipeline::{Find, Pipeline, PipelineStep};
use crate::providers::{Choices, Preferences};
use crate::reload::{Candidate, CoalescingQueue, LoadOptions, LoaderContext, Source, Watch};
use crate::sync::{SameProcess, WaitGroup};
pub use builder::HostBuilder;
pub use discovery::{Discovered, Discovery};
pub(crate) use load_all::survey;
pub use load_all::{LoadReport, LoadedPlugin, RefusedPlugin};
use not_found::nearest;
use registry::Registry;
use reload::ReloadRequest;
pub use reload::Reloaded;
use runtime::Factories;
pub use unload::{RetainedLibrary, UnloadReport};

/// A plugin host. Cheap to clone; dropping the last clone shuts it down without grace.
///
/// Its futures run on any executor: the work is done on threads of the host. Once a future was
/// polled, its work completes even if the future is dropped.
///
/// A host belongs to the process that built it. After a `fork`, everything that the child does
/// with it fails with [`ErrorKind::Forked`] or returns nothing, and dropping it there does
/// nothing. The child may build its own host.
///
/// ```
/// use std::time::Duration;
/// use hotbay::{Host, HostEvent, Output, Request};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotbay::Error> {
/// let host = Host::builder()
///     .register_fn("shout", |_, input| Ok(Output::text(input.as_text()?.to_uppercase())))
///     .build()?;
/// let mut events = host.events();
/// let shout = host.plugin("shout")?;
/// assert_eq!(shout.call(Request::text("hello"))?.as_text()?, "HELLO");
/// host.unload("shout").await?;
/// assert!(matches!(events.next().await, Some(HostEvent::Retired { .. })));
/// host.shutdown(Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Host {
    inner: SameProcess<Arc<Inner>>,
}

struct Inner {
    context: Arc<LoaderContext>,
    registry: Registry,
    dirs: Vec<PathBuf>,
    discovery: Box<dyn Discovery>,
    factories: Factories,
    layers: Layers,
    preferences: Preferences,
    /// The choices of providers that were reported.
    choices: Choices,
    reload_queue: CoalescingQueue<ReloadRequest>,
    /// Loads, reloads, and unloads of replaced generations.
    background: Arc<WaitGroup>,
    /// Unloads of single plugins.
    unloads: Arc<WaitGroup>,
    /// `None` if nothing is watched, or not anymore.
    watch: Mutex<Option<Watch>>,
    /// Stops the thread that waits for the application's token.
    cancellation: OnceLock<DropGuard>,
    _events: EventBusOwner,
}

impl Host {
    /// Returns a builder.
    pub fn builder() -> HostBuilder {
        HostBuilder::new()
    }

    /// Loads every plugin that the host [discovers](Discovery) and that is not loaded yet, in the
    /// order of `requires`, several at once. A plugin that fails does not keep the others from
    /// loading.
    pub async fn load_all(&self) -> LoadReport {
        if let Err(error) = self.check_process() {
            return load_all::refused(&self.inner.dirs, error);
        }
        let host = self.clone();
        let loaded = on_thread("hotbay-load", move || load_all::load_all(&host.inner)).await;
        loaded.unwrap_or_else(|error| load_all::refused(&self.inner.dirs, error))
    }

    /// Loads the plugin of a folder.
    ///
    /// On 64-bit Linux, libraries that the plugin's library links and that are in its folder are
    /// loaded from private copies too. They are found by the library's search path as far as that
    /// leads into the folder (`$ORIGIN`, `$ORIGIN/lib`), beside the file that links them, or in the
    /// folder itself. The folder takes precedence over the system's directories. They must satisfy
    /// the rules for the library: owner, mode, no links out of the folder, and all of them together
    /// within the size limit of one library. The manifest's `sha256` covers the library alone. A
    /// plugin that links anything but the C library stays mapped when it is unloaded.
    ///
    /// # Errors
    ///
    /// Depends on the step that failed: see [`Error::step`]. Nothing of the plugin remains after a
    /// failure. `Duplicate` if a plugin of its name is loaded; `Shutdown`.
    pub async fn load(&self, folder: impl AsRef<Path>) -> Result<PluginHandle, Error> {
        self.load_with(folder, LoadOptions::new()).await
    }

    /// Loads the plugin of a folder with another name, config or limits than its manifest states,
    /// or with a state.
    ///
    /// ```no_run
    /// # async fn load(host: hotbay::Host, token: &str) -> Result<(), hotbay::Error> {
    /// use hotbay::LoadOptions;
    /// use serde_json::json;
    ///
    /// for region in ["eu", "us"] {
    ///     let options = LoadOptions::new()
    ///         .with_name(format!("orders-{region}"))
    ///         .with_config(json!({ "region": region, "token": token }));
    ///     host.load_with("plugins/orders", options).await?;
    /// }
    /// assert_eq!(host.plugin("orders-eu")?.name().as_str(), "orders-eu");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The same as [`load`](Self::load).
    pub async fn load_with(
        &self,
        folder: impl AsRef<Path>,
        mut options: LoadOptions,
    ) -> Result<PluginHandle, Error> {
        self.check_process()?;
        let host = self.clone();
        let folder = absolute(folder.as_ref());
        let state = options.take_state();
        let load = move || host.inner.load_folder(&folder, &Arc::new(options), state);
        on_thread("hotbay-load", load).await?
    }

    /// Returns a handle to a plugin that serves.
    ///
    /// # Errors
    ///
    /// `NotFound`, with the nearest name of a loaded plugin as the hint; `Shutdown`.
    pub fn plugin(&self, name: &str) -> Result<PluginHandle, Error> {
        self.inner.registry.find(name)
    }

    /// Returns a [`Pipeline`] of plugins. They are looked up on each run, so a plugin that was
    /// replaced is used at once.
    ///
    /// # Errors
    ///
    /// `NotFound` if one of them is not loaded, or if `steps` is empty; `Shutdown`.
    pub fn pipeline<S>(&self, steps: impl IntoIterator<Item = S>) -> Result<Pipeline, Error>
    where
        S: Into<PipelineStep>,
    {
        let steps = steps.into_iter().map(Into::into).collect();
        Pipeline::new(steps, Arc::new(Finder(Arc::downgrade(&self.inner))))
    }

    /// Returns a snapshot of each loaded plugin, sorted by name.
    pub fn list(&self) -> Vec<PluginInfo> {
        self.inner.registry.list()
    }

    /// Replaces a plugin with the current content of its folder, while calls are in flight.
    ///
    /// The new build is checked and started beside the old one and takes over its state. Then new
    /// calls go to it, and the old build drains and stops. The future completes when the new build
    /// serves; the end of the old one is reported as an event. If nothing changed, nothing is done,
    /// unless the plugin is quarantined: then the same build starts as a new generation.
    ///
    /// # Errors
    ///
    /// Depends on the step that failed: see [`Error::step`]. The old build keeps serving, and
    /// nothing remains of the new one. `NotFound`; `Requires` if a plugin that requires this one
    /// does not accept the new version; `Superseded` if a later request replaced this one; `Shutdown`.
    pub async fn reload(&self, name: &str) -> Result<Reloaded, Error> {
        let plugin = self.inner.registry.find(name)?.name().clone();
        let (sender, receiver) = oneshot::channel();
        self.inner.request_reload(&plugin, ReloadRequest::Caller(sender));
        let reloaded = receiver.await;
        reloaded.unwrap_or_else(|_| Err(crate::error::bug!("the reload of `{plugin}` was lost")))
    }

    /// Returns a stream of the events from now on.
    pub fn events(&self) -> Events {
        self.inner.context.events.subscribe()
    }

    fn check_process(&self) -> Result<(), Error> {
        if self.inner.is_current() { Ok(()) } else { Err(Error::forked()) }
    }
}

/// Finds plugins for a pipeline, without keeping the host alive.
struct Finder(Weak<Inner>);

impl Find for Finder {
    fn find(&self, name: &PluginName) -> Result<PluginHandle, Error> {
        let inner = self.0.upgrade().ok_or_else(shutting_down)?;
        inner.registry.find(name.as_str())
    }
}

/// Runs `run` on a new thread, so that no executor is blocked.
async fn on_thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = sender.send(run());
    });
    spawned.map_err(|error| {
        let message = format!("cannot start the thread `{name}`");
        Error::new(ErrorKind::Overloaded, message).caused_by(error)
    })?;
    receiver
        .await
        .map_err(|_| crate::error::bug!("the thread `{name}` exited without returning a result"))
}

impl Inner {
    fn load_folder(
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
    fn load(
        &self,
        candidate: &Candidate,
        source: Source,
        state: Option<Snapshot>,
    ) -> Result<PluginHandle, Error> {
        // Counted first, so that a shutdown that does not find the plugin waits for its load.
        let _running = self.background.start();
        let reservation = self.registry.reserve(candidate)?;
        self.check_retained(candidate)?;
        let layers = self.layers.of(&candidate.manifest)?;
        let loaded = crate::reload::load(&self.context, candidate, source, state)?;
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

    fn emit_refused<T>(&self, folder: &Path, loaded: &Result<T, Error>) {
        let Err(error) = loaded else { return };
        let plugin = match error.plugin() {
            Some(plugin) => plugin.to_string(),
            None => folder.display().to_string(),
        };
        let reason = error.full_message();
        let hint = error.hint().map(str::to_owned);
        self.context.events.emit(crate::event::HostEvent::Refused { plugin, reason, hint });
    }
}

/// Resolves a path against the current working directory. One that cannot be resolved is returned
/// as is, and fails when it is read.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn shutting_down() -> Error {
    Error::new(ErrorKind::Shutdown, "the host was shut down")
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
        self.context.deferred_unloads.end();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("plugins", &self.inner.registry.names())
            .finish_non_exhaustive()
    }
}
