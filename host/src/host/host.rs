//! The public type of a host: its methods check the process, and do the work on threads of the host.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hotbay_manifest::Manifest;
use hotbay_plugin::contract::{Contract, Proxy};
use hotbay_plugin::{CallContext, Output, Payload, Plugin, PluginError};
use serde_json::Value;
use tokio::sync::oneshot;

#[cfg(feature = "config-file")]
use super::config_changes::{ConfigChanges, apply_config};
#[cfg(feature = "config-file")]
use super::config_file::ConfigFile;
use super::factories::{
    Serves, function_source, invalid_contract, manifest_of, not_registered, served_source,
};
use super::inner::{Inner, RetainedLibrary, UnloadReport, absolute};
use super::load_all::{self, LoadReport};
use super::providers::{CallerKind, ProviderFinder};
use super::registry::{UnloadScope, shutting_down};
use super::reload_request::{ReloadRequest, Reloaded};
use crate::boundary::{Contracts, Root};
use crate::contracts::KnownContract;
use crate::error::{Error, ErrorKind};
use crate::event::Events;
use crate::handle::PluginHandle;
use crate::id::PluginName;
use crate::loader::{Candidate, LoadOptions, Source};
use crate::metrics::{HostStats, PluginInfo};
use crate::pipeline::{Find, Pipeline, PipelineStep};
use crate::providers::{Providers, ProvidersTransport};
use crate::slot::SAMPLED_ONE_IN;
use crate::sync::SameProcess;

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
    pub(super) inner: SameProcess<Arc<Inner>>,
}

impl Host {
    /// Loads every plugin that the host [discovers](crate::Discovery) and that is not loaded yet, in the
    /// order of `requires`, several at once. A plugin that fails does not keep the others from
    /// loading.
    pub async fn load_all(&self) -> LoadReport {
        if let Err(error) = self.check_process() {
            return load_all::refused(&self.inner.dirs, error);
        }
        let host = self.clone();
        let loaded =
            on_thread("hotbay-load", move || load_all::load_all(&host.inner, &|_| true)).await;
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

    /// Applies a configuration that changed. The plugins whose settings differ are reloaded, loaded or
    /// unloaded. Values that apply to the host itself need a restart, and so do those of compiled-in
    /// plugins.
    ///
    /// A host with [`HostBuilder::config_file`](crate::HostBuilder::config_file) and
    /// [`hot_reload`](crate::HostBuilder::hot_reload) does it by itself, and emits
    /// [`HostEvent::ConfigChanged`](crate::HostEvent::ConfigChanged).
    ///
    /// # Errors
    ///
    /// `Shutdown`. What fails for a plugin is in [`ConfigChanges::failed`].
    #[cfg(feature = "config-file")]
    pub async fn apply_config(&self, config: ConfigFile) -> Result<ConfigChanges, Error> {
        self.check_process()?;
        self.inner.registry.check_open()?;
        let host = self.clone();
        on_thread("hotbay-config", move || apply_config(&host.inner, config)).await
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
    ///
    /// If one of them runs in a process, reads `/proc` for
    /// [`process_usage`](PluginInfo::process_usage), which takes about a millisecond for each hundred
    /// processes of the machine.
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

    /// Registers a plugin that is compiled into this program and starts it. After an unload it
    /// can be registered again.
    ///
    /// # Errors
    ///
    /// Depends on the step that failed: see [`Error::step`]. `Duplicate` if a plugin of this name
    /// is loaded; `Shutdown`.
    pub async fn register<T: Plugin>(&self, manifest: Manifest) -> Result<PluginHandle, Error> {
        let name = manifest.name().clone();
        let source = Source::Type(Root::compiled_in::<T>(), Contracts::default());
        self.start(name.as_str(), Ok((manifest, source))).await
    }

    /// Registers a plugin that is compiled into this program and serves contracts, and starts it.
    ///
    /// # Errors
    ///
    /// The same as [`register`](Self::register).
    pub async fn register_serving<T: Plugin>(
        &self,
        manifest: Manifest,
        serves: Serves<T>,
    ) -> Result<PluginHandle, Error> {
        let name = manifest.name().clone();
        let contracts = serves.contracts(name.as_str());
        let source = contracts.map(|contracts| Source::Type(Root::compiled_in::<T>(), contracts));
        self.start(name.as_str(), source.map(|source| (manifest, source))).await
    }

    /// Registers a value as a plugin that serves contracts and no other calls. See [`Serves`].
    ///
    /// # Errors
    ///
    /// The same as [`register_fn`](Self::register_fn).
    pub async fn serve<T>(
        &self,
        name: &str,
        value: T,
        serves: Serves<T>,
    ) -> Result<PluginHandle, Error>
    where
        T: Send + Sync + 'static,
    {
        let plugin = manifest_of(name)
            .and_then(|manifest| Ok((manifest, served_source(value, serves.contracts(name)?))));
        self.start(name, plugin).await
    }

    /// Returns a value that implements the trait of a contract by calls of a plugin. It stays valid
    /// through reloads.
    ///
    /// Its methods call the plugin on this thread, like [`PluginHandle::call`]. See
    /// [`contract`](crate::contract) for other ways to call and for the options of calls. From now
    /// on, builds that serve an incompatible version of the contract are rejected.
    ///
    /// # Errors
    ///
    /// `NotFound`; `NotProvided` if the plugin does not serve the contract; `Incompatible` if its
    /// version cannot be converted; `Shutdown`.
    pub fn contract<C: Contract + ?Sized>(
        &self,
        plugin: &str,
    ) -> Result<crate::contract::Handle<C>, Error> {
        let handle = self.inner.registry.find(plugin)?;
        let contract = self.inner.context.contracts.register(C::DESCRIPTION);
        let contract = contract.ok_or_else(|| invalid_contract(C::DESCRIPTION.name))?;
        handle.contract(contract).map(Proxy::new)
    }

    /// Registers a function as a plugin.
    ///
    /// ```
    /// # use hotbay::{Host, Output, Request};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotbay::Error> {
    /// let host = Host::builder().build()?;
    /// let echo = host.register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes()))).await?;
    /// assert_eq!(echo.call(Request::text("hello"))?.as_text()?, "hello");
    /// host.unregister("echo").await?;
    /// assert!(host.plugin("echo").unwrap_err().is_not_found());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The same as [`register`](Self::register); `Manifest` if `name` is not a valid plugin name.
    pub async fn register_fn<F>(&self, name: &str, function: F) -> Result<PluginHandle, Error>
    where
        F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
    {
        let plugin = manifest_of(name).map(|manifest| (manifest, function_source(function)));
        self.start(name, plugin).await
    }

    /// Unloads a plugin of this program, like [`unload`](Self::unload).
    ///
    /// # Errors
    ///
    /// The same as [`unload`](Self::unload); `Unsupported` if the plugin was loaded from a folder.
    pub async fn unregister(&self, name: &str) -> Result<UnloadReport, Error> {
        self.unload_in(name, UnloadScope::CompiledIn).await
    }

    /// Creates a plugin by the factory of `kind`, with this name and config, and starts it.
    ///
    /// # Errors
    ///
    /// `NotFound` if the host has no factory of this kind; `StartFailed` if the factory fails,
    /// panics or exceeds [`start_timeout`](crate::HostLimits::start_timeout); otherwise the same as
    /// [`register`](Self::register).
    pub async fn create(
        &self,
        kind: &str,
        name: &str,
        config: Value,
    ) -> Result<PluginHandle, Error> {
        let plugin = self.inner.factories.construct(kind).and_then(|construct| {
            let manifest = manifest_of(name)?
                .with_config(config)
                .map_err(|error| not_registered(name).caused_by(error))?;
            Ok((manifest, Source::Value(construct)))
        });
        self.start(name, plugin).await
    }

    async fn start(
        &self,
        name: &str,
        plugin: Result<(Manifest, Source), Error>,
    ) -> Result<PluginHandle, Error> {
        self.check_process()?;
        let host = self.clone();
        let name = name.to_owned();
        let load = move || {
            let loaded = plugin.and_then(|(manifest, source)| {
                host.inner.load(&Candidate::compiled_in(manifest), source, None)
            });
            host.inner.emit_refused(Path::new(&name), &loaded);
            loaded
        };
        on_thread("hotbay-load", load).await?
    }

    /// Unloads a plugin: it gets no new calls, running calls may finish, then it shuts down and its
    /// library is unmapped.
    ///
    /// Queued calls fail with `Retired`. The outcome is also emitted as an event, `Closed` or
    /// `Kept`.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Requires` if other plugins require it; `Shutdown`. An error of the plugin's own shutdown is
    /// in the report, since the plugin is unloaded all the same.
    pub async fn unload(&self, name: &str) -> Result<UnloadReport, Error> {
        self.unload_in(name, UnloadScope::Any).await
    }

    async fn unload_in(&self, name: &str, scope: UnloadScope) -> Result<UnloadReport, Error> {
        self.check_process()?;
        let host = self.clone();
        let name = name.to_owned();
        on_thread("hotbay-unload", move || host.inner.unload(&name, scope)).await?
    }

    /// Returns the libraries that stay mapped after the unload of their plugins.
    pub fn retained(&self) -> Vec<RetainedLibrary> {
        if self.check_process().is_err() {
            return Vec::new();
        }
        let retained = self.inner.context.deferred_unloads.list().into_iter();
        let library = |(plugin, generation, reason)| RetainedLibrary { plugin, generation, reason };
        retained.map(library).collect()
    }

    /// Unloads all plugins, in the reverse order of `requires`; those that do not require each other,
    /// at the same time.
    ///
    /// New calls fail with `Shutdown`. Running and queued calls have `grace` to finish. After that,
    /// queued calls fail with `Shutdown`, and a plugin whose calls still run stays mapped, with an
    /// event. Loads, reloads and unloads that run are waited for until
    /// [`stop_timeout`](crate::HostLimits::stop_timeout) after `grace`, unless `grace` is zero. It may
    /// be called again, even concurrently: each call completes when the shutdown has.
    pub async fn shutdown(&self, grace: Duration) {
        if self.check_process().is_err() {
            return;
        }
        let host = self.clone();
        let done = on_thread("hotbay-shutdown", move || host.inner.shutdown(grace)).await;
        if done.is_err() {
            // No thread is available, so this one is blocked.
            self.inner.shutdown(grace);
        }
    }

    /// Returns the plugins that provide a contract: those whose manifests list it in `provides`. See
    /// [`Providers`].
    ///
    /// # Errors
    ///
    /// `NotFound` if no serving plugin provides it, with the nearest provided contract as the hint.
    pub fn providers(&self, contract: &str) -> Result<Providers, Error> {
        self.providers_serving(contract, None)
    }

    /// Returns a value that implements the trait of a contract by calls of the plugins that serve it.
    /// It stays valid even while there are none.
    ///
    /// Calls the first provider on this thread, as [`contract`](Self::contract) does, and the next
    /// one after a failure, by the rules of [`Providers`]. A provider whose version of the contract
    /// lacks the method is not called: the next one is, or else the method's default body runs.
    /// Plugins that serve an incompatible version are not providers.
    ///
    /// ```
    /// use hotbay::Host;
    /// use hotbay::contract::{CallError, Serves};
    ///
    /// #[hotbay_plugin::contract(name = "greeting", version = "1.0")]
    /// trait Greeting {
    ///     fn greet(&self, name: &str) -> Result<String, CallError>;
    /// }
    ///
    /// struct Greeter(&'static str);
    ///
    /// impl Greeting for Greeter {
    ///     fn greet(&self, name: &str) -> Result<String, CallError> {
    ///         Ok(format!("{}, {name}!", self.0))
    ///     }
    /// }
    ///
    /// let serves = || Serves::new().with::<dyn Greeting>();
    /// let host = Host::builder()
    ///     .serve("brief", Greeter("Hi"), serves())
    ///     .serve("polite", Greeter("Good morning"), serves())
    ///     .prefer_providers("greeting", ["polite"])
    ///     .build()?;
    /// let greeting = host.providers_of::<dyn Greeting>()?.idempotent();
    /// assert_eq!(greeting.greet("Ada")?, "Good morning, Ada!");
    /// # Ok::<(), hotbay::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `NotFound` if no serving plugin provides the contract; `NotProvided` or `Incompatible`, with
    /// the reason of each provider, if none of them serves it; `Shutdown`.
    pub fn providers_of<C: Contract + ?Sized>(
        &self,
    ) -> Result<crate::contract::Provided<C>, Error> {
        let contract = self.inner.context.contracts.register(C::DESCRIPTION);
        let contract = contract.ok_or_else(|| invalid_contract(C::DESCRIPTION.name))?;
        let providers = self.providers_serving(&contract.text.name, Some(Arc::clone(&contract)))?;
        Ok(Proxy::new(ProvidersTransport::new(providers, contract)))
    }

    fn providers_serving(
        &self,
        contract: &str,
        typed: Option<Arc<KnownContract>>,
    ) -> Result<Providers, Error> {
        let host = Arc::downgrade(&self.inner);
        let registry = ProviderFinder { host, caller: CallerKind::Application };
        Providers::new(contract, typed, Arc::new(registry), self.inner.registry.changes.clone())
    }

    /// Returns the counts of the host and of every plugin. Like [`list`](Self::list), reads `/proc` if
    /// a program runs.
    ///
    /// Counts are exact for calls that have returned. The duration of one call in 64 is recorded,
    /// since reading the clock costs as much as a call.
    pub fn stats(&self) -> HostStats {
        HostStats {
            plugins: self.list(),
            retained_libraries: self.retained().len() as u64,
            sampled_one_in: SAMPLED_ONE_IN,
        }
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

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("plugins", &self.inner.registry.names())
            .finish_non_exhaustive()
    }
}
