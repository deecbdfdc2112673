//! Configures a host and builds it.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hotbay_manifest::{Manifest, StartCandidate, start_order};
use hotbay_plugin::contract::Contract;
use hotbay_plugin::contract::internal::{Description, ServedBy};
use hotbay_plugin::{CallContext, Config, Output, Payload, Plugin, PluginError};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "config-file")]
use super::config_changes::watch_config;
#[cfg(feature = "config-file")]
use super::config_file::{ConfigFile, ConfigState};
use super::discovery::{DirectoryWalk, Discovery};
use super::factories::{
    Factories, Serves, function_source, invalid_contract, manifest_of, served_source, service_of,
};
use super::host::Host;
use super::inner::{Inner, absolute, shut_down_with};
use super::registry::Registry;
use super::services::HostContracts;
use super::watching::watch;
use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Rules;
use crate::boundary::{Contracts, Instance, Root};
use crate::call::{ContractCalls, Request};
use crate::config::{ConfinementPolicy, HostLimits, Quarantine};
use crate::contracts::ContractRegistry;
use crate::error::{Error, ErrorKind};
use crate::event::EventBus;
use crate::generation::DeferredUnloads;
use crate::id::{InvalidName, PluginName};
use crate::loader::{
    AbandonedChecks, Candidate, CheckedSchemas, CoalescingQueue, CurrentSettings, LoaderContext,
    PermissionPolicy, PluginSettings, Source,
};
use crate::middleware::{Layer, Layers, ResponseCache};
use crate::providers::{Choices, Preference, Preferences};
use crate::sync::SameProcess;
use crate::worker::Timer;

/// Configures a [`Host`]: see [`Host::builder`].
///
/// ```
/// use std::time::Duration;
/// use hotbay::{Host, HostLimits, Output};
///
/// let host = Host::builder()
///     .plugin_dir("target/plugins")
///     .hot_reload(true)
///     .limits(HostLimits::default().with_max_workers(2))
///     .default_deadline(Duration::from_secs(1))
///     .permission_policy(|_plugin, permission| permission == "log")
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// assert_eq!(host.list()[0].name.as_str(), "echo");
/// # Ok::<(), hotbay::Error>(())
/// ```
#[must_use]
pub struct HostBuilder {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) rules: Rules,
    pub(crate) limits: HostLimits,
    quarantine: Option<Quarantine>,
    want_frames: bool,
    default_deadline: Option<Duration>,
    layers: Layers,
    pub(crate) permission_policy: Option<PermissionPolicy>,
    pub(crate) settings: Arc<PluginSettings>,
    #[cfg(feature = "config-file")]
    config_file: Option<ConfigFile>,
    /// The first invalid setting.
    invalid: Option<Error>,
    preferences: Preferences,
    pub(crate) staging_dir: Option<PathBuf>,
    pub(crate) confinement: ConfinementPolicy,
    keep_staged: bool,
    pub(crate) runner: Option<PathBuf>,
    pub(crate) environment: Vec<String>,
    compiled_in: Vec<(Result<Manifest, Error>, Source)>,
    contracts: Vec<&'static Description>,
    services: HostContracts,
    factories: Factories,
    discovery: Option<Box<dyn Discovery>>,
    cancellation: Option<CancellationToken>,
    is_watched: bool,
    poll_interval: Option<Duration>,
    unload_removed: bool,
}

impl HostBuilder {
    pub(super) fn new() -> Self {
        let limits = HostLimits::default();
        let rules = Rules {
            allow_unverified: false,
            allow_writable_by_others: false,
            max_library_bytes: limits.max_library_bytes,
            signatures: Arc::default(),
        };
        Self {
            dirs: Vec::new(),
            rules,
            limits,
            quarantine: Some(Quarantine::default()),
            want_frames: false,
            default_deadline: None,
            layers: Layers::default(),
            permission_policy: None,
            settings: Arc::default(),
            #[cfg(feature = "config-file")]
            config_file: None,
            invalid: None,
            preferences: Preferences::default(),
            staging_dir: None,
            confinement: ConfinementPolicy::default(),
            keep_staged: false,
            runner: None,
            environment: Vec::new(),
            compiled_in: Vec::new(),
            contracts: Vec::new(),
            services: HostContracts::default(),
            factories: Factories::default(),
            discovery: None,
            cancellation: None,
            is_watched: false,
            poll_interval: None,
            unload_removed: true,
        }
    }

    /// Adds a folder below which plugins are searched. A relative path is resolved against the
    /// working directory by [`build`](Self::build).
    pub fn plugin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dirs.push(dir.into());
        self
    }

    /// Reads the configuration of the host from a `hotbay.toml`, as if its values were set here: later
    /// calls of other methods replace them, or add to them as they do otherwise. With [`hot_reload`](Self::hot_reload), changes of the file
    /// are applied while the host runs: see [`Host::apply_config`].
    ///
    /// A mistake in the file fails in [`build`](Self::build). The file must not be writable by other
    /// users, unless [`allow_writable_by_others`](Self::allow_writable_by_others) was called before.
    ///
    /// ```
    /// # use hotbay::{ErrorKind, Host};
    /// let error = Host::builder().config_file("no/such/hotbay.toml").build().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Config);
    /// ```
    #[cfg(feature = "config-file")]
    pub fn config_file(self, file: impl AsRef<std::path::Path>) -> Self {
        match ConfigFile::read_with(file.as_ref(), self.rules.trust()) {
            Ok(file) => self.config(file),
            Err(error) => {
                let mut this = self;
                this.invalid.get_or_insert(error);
                this
            }
        }
    }

    /// Uses a configuration that was read before, like [`config_file`](Self::config_file).
    #[cfg(feature = "config-file")]
    pub fn config(mut self, file: ConfigFile) -> Self {
        let settings = file.settings();
        self.dirs.extend(settings.plugin_dirs.clone().unwrap_or_default());
        self.confinement = file.confinement(self.confinement);
        if let Some(dir) = &settings.staging_dir {
            self.staging_dir = Some(dir.clone());
        }
        self.runner = settings.runner.clone().or(self.runner);
        if let Some(deadline) = settings.default_deadline {
            self.default_deadline = Some(deadline);
        }
        self.environment.extend(settings.environment.iter().cloned());
        if let Some(allow) = settings.allow_unverified {
            self.rules.allow_unverified = allow;
        }
        if let Some(allow) = settings.allow_writable_by_others {
            self.rules.allow_writable_by_others = allow;
        }
        if let Some(policy) = settings.signatures {
            self = self.signatures(policy);
        }
        match file.trusted_keys() {
            Ok(keys) => self = keys.into_iter().fold(self, Self::trusted_key),
            Err(error) => _ = self.invalid.get_or_insert(error),
        }
        self.is_watched = settings.watch.unwrap_or(self.is_watched);
        self.poll_interval = settings.poll_interval.or(self.poll_interval);
        self.unload_removed = settings.unload_removed.unwrap_or(self.unload_removed);
        let mut limits = self.limits.clone();
        file.set_limits(&mut limits);
        self = self.limits(limits);
        self.quarantine = file.quarantine(self.quarantine);
        for (contract, plugins) in &settings.providers {
            self = self.prefer_providers(contract, plugins.iter().map(PluginName::as_str));
        }
        self.settings = Arc::new(file.plugin_settings());
        self.config_file = Some(file);
        self
    }

    /// Sets the limits of plugins.
    pub fn limits(mut self, limits: HostLimits) -> Self {
        self.rules.max_library_bytes = limits.max_library_bytes;
        self.limits = limits;
        self
    }

    /// Sets when plugins with repeated faults are quarantined; `None` for never. A plugin that
    /// exceeds its memory limit is always quarantined.
    pub fn quarantine(mut self, quarantine: impl Into<Option<Quarantine>>) -> Self {
        self.quarantine = quarantine.into();
        self
    }

    /// Sets the time limit of pooled calls without a deadline, for plugins whose manifests state
    /// none. Default: no limit.
    pub fn default_deadline(mut self, timeout: Duration) -> Self {
        self.default_deadline = Some(timeout);
        self
    }

    /// Adds a layer around the calls of every plugin. The first layer is the outermost. See
    /// [`Layer`].
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.add(Arc::new(layer));
        self
    }

    /// Sets what the host requires of the confinement of programs and isolated libraries. Replaces
    /// what a `hotbay.toml` has set before, except for its bounds, which come first.
    pub fn confinement(mut self, policy: ConfinementPolicy) -> Self {
        self.confinement = policy;
        self
    }

    /// Passes a variable of the host's environment to processes. Only the usual ones, such as `PATH`,
    /// `HOME` and `LANG`, are passed by default.
    pub fn inherit_env(mut self, name: impl Into<String>) -> Self {
        self.environment.push(name.into());
        self
    }

    /// Validates the requests of one plugin before they reach it. A request for which `validator`
    /// returns `Err` fails with `InvalidInput` and that text.
    ///
    /// It runs on the thread of the call, after the check against the manifest's `input_schema`. All
    /// validators of a plugin must accept the request. If one panics, the call fails with
    /// `LayerPanicked`, which is not a fault of the plugin.
    ///
    /// ```
    /// # use hotbay::{Error, ErrorKind, Host, Output, Request};
    /// let host = Host::builder()
    ///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
    ///     .validate("echo", |request| match request.as_bytes() {
    ///         [] => Err("nothing to echo".to_owned()),
    ///         _ => Ok(()),
    ///     })
    ///     .build()?;
    /// let error = host.plugin("echo")?.call(Request::text("")).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// assert!(error.full_message().contains("nothing to echo"));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn validate<F>(mut self, plugin: &str, validator: F) -> Self
    where
        F: Fn(&Request<'_>) -> Result<(), String> + Send + Sync + 'static,
    {
        match PluginName::new(plugin) {
            Ok(plugin) => self.layers.validate(plugin, Arc::new(validator)),
            Err(error) => {
                let message = format!("requests of `{plugin}` cannot be validated");
                let error = Error::new(ErrorKind::NotFound, message).caused_by(error);
                self.invalid.get_or_insert(error);
            }
        }
        self
    }

    /// Sets which of the permissions that a manifest requests are granted. By default all are.
    ///
    /// `policy` is called at every load, once per permission: for host services such as `log`, and
    /// for operations that requests may name ([`Request::operation`]). A permission that it does not
    /// grant is treated as not requested, and is listed in
    /// [`PluginInfo::notes`](crate::PluginInfo::notes). If it panics, the load fails with
    /// `LayerPanicked`. It blocks the load.
    ///
    /// Permissions limit what a plugin can ask the host for. They do not confine its code: a library runs
    /// in this process, and can do whatever the process can.
    ///
    /// ```
    /// # use hotbay::{Error, ErrorKind, Host, Manifest, Output, Request};
    /// # use hotbay::{CallContext, Payload, Plugin, PluginError};
    /// # use hotbay::hotbay_plugin::{Config, HostServices};
    /// # struct Notes;
    /// # impl Plugin for Notes {
    /// #     fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> { Ok(Self) }
    /// #     fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
    /// #         Ok(Output::text("done"))
    /// #     }
    /// # }
    /// let manifest = Manifest::new("notes", "1.0.0")
    ///     .and_then(|manifest| manifest.with_permission("read"))
    ///     .and_then(|manifest| manifest.with_permission("write"))
    ///     .expect("a manifest");
    /// let host = Host::builder()
    ///     .permission_policy(|_plugin, permission| permission == "read")
    ///     .register::<Notes>(manifest)
    ///     .build()?;
    /// let notes = host.plugin("notes")?;
    /// assert!(notes.call(Request::text("1").with_operation("read")).is_ok());
    /// let error = notes.call(Request::text("1").with_operation("write")).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn permission_policy<F>(mut self, policy: F) -> Self
    where
        F: Fn(&PluginName, &str) -> bool + Send + Sync + 'static,
    {
        self.permission_policy = Some(PermissionPolicy(Arc::new(policy)));
        self
    }

    /// Captures the return addresses of panics in plugins: see
    /// [`Fault::frames`](hotbay_plugin::Fault::frames).
    pub fn capture_panic_backtrace(mut self, want: bool) -> Self {
        self.want_frames = want;
        self
    }

    /// Sets the folder for private copies of libraries; by default the system's folder for temporary
    /// files. It must allow files to be executed. A relative path is resolved by
    /// [`build`](Self::build).
    pub fn staging_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.staging_dir = Some(dir.into());
        self
    }

    /// Sets the program `hotbay-runner`, which runs isolated libraries. By default
    /// the host uses the one beside its own program, or else the first in `PATH`. A relative path is
    /// resolved by [`build`](Self::build). No other user may be able to replace it, and its version
    /// must be that of this crate.
    pub fn runner(mut self, program: impl Into<PathBuf>) -> Self {
        self.runner = Some(program.into());
        self
    }

    /// Keeps the private copies after the libraries are unmapped and after this process exits, in
    /// folders named `hotbay-kept-…`, for profilers and core dumps. The host never removes them.
    ///
    /// By default a copy is removed when its library is unmapped. Until then its path is valid, so
    /// backtraces, debuggers and profilers of a running process find the symbols. Copies of a killed
    /// process are removed when the next host stages a library.
    pub fn keep_staged(mut self, keep: bool) -> Self {
        self.keep_staged = keep;
        self
    }

    /// Watches the plugin directories, and loads, reloads and unloads plugins as their folders
    /// change. Default: false.
    ///
    /// The watch starts in [`build`](Self::build) and covers the directories recursively, so a file
    /// may be replaced in any way. A directory that does not exist yet, or that is replaced as a
    /// whole, is found within a second. In a plugin's folder, these files count: `plugin.json`, the
    /// files that it names, and for a library on Linux the files named `*.so` or `*.so.*` up to two
    /// folders below, since the library may link them. The folders of instances that a `hotbay.toml`
    /// adds are watched, too.
    ///
    /// A file that is renamed into place is read at once; after any other change, the host waits until
    /// sizes and times have not changed for 50 ms. Then a serving plugin is
    /// [reloaded](Host::reload), and any other is loaded, even if it was unloaded before. Plugins that
    /// exist when the watch starts are left to [`load_all`](Host::load_all). Files that do not match,
    /// such as a new library beside the old manifest, are probably half of a replacement: the failure
    /// is reported only after 300 ms without a change. The same content is reported once.
    ///
    /// For network file systems, whose changes the system does not report, see
    /// [`watch_poll_interval`](Self::watch_poll_interval). Without the feature `watch`, the host polls
    /// every second by default.
    pub fn hot_reload(mut self, is_enabled: bool) -> Self {
        self.is_watched = is_enabled;
        self
    }

    /// Polls for changes in this interval, instead of using the notifications of the system.
    pub fn watch_poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = Some(interval);
        self
    }

    /// Sets whether a plugin is unloaded when its folder or `plugin.json` has been missing for 300 ms.
    /// Default: true. A plugin that others require stays, with an event. All stay while the plugin
    /// directory itself is missing.
    pub fn unload_removed(mut self, is_enabled: bool) -> Self {
        self.unload_removed = is_enabled;
        self
    }

    /// Sets how plugins are found by [`Host::load_all`], instead of by a walk through the plugin
    /// directories, which are then only [watched](Self::hot_reload), and without the additional
    /// instances that a `hotbay.toml` names. See [`Discovery`].
    pub fn discovery(mut self, discovery: impl Discovery) -> Self {
        self.discovery = Some(Box::new(discovery));
        self
    }

    /// Shuts the host down when `token` is cancelled, with
    /// [`drain_timeout`](HostLimits::drain_timeout) as the grace of running calls.
    ///
    /// ```
    /// # use hotbay::{Host, HostEvent};
    /// use hotbay::CancellationToken;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotbay::Error> {
    /// let token = CancellationToken::new();
    /// let host = Host::builder().cancellation_token(token.clone()).build()?;
    /// let mut events = host.events();
    /// token.cancel();
    /// assert!(matches!(events.next().await, Some(HostEvent::Stopped)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancellation_token(mut self, token: CancellationToken) -> Self {
        self.cancellation = Some(token);
        self
    }

    /// Sets the plugins that are tried first for a contract, in this order. The others follow in the
    /// order of [`prefer`](Self::prefer). The last call for a contract applies. The plugins need not
    /// be loaded.
    pub fn prefer_providers<N: AsRef<str>>(
        mut self,
        contract: impl Into<String>,
        plugins: impl IntoIterator<Item = N>,
    ) -> Self {
        let contract = contract.into();
        let names = plugins.into_iter().map(|plugin| PluginName::new(plugin.as_ref()));
        match names.collect::<Result<_, InvalidName>>() {
            Ok(names) => self.preferences.put_first(contract, names),
            Err(error) => {
                let message = format!("a provider of `{contract}` cannot be preferred");
                let error = Error::new(ErrorKind::NotFound, message).caused_by(error);
                self.invalid.get_or_insert(error);
            }
        }
        self
    }

    /// Sets which kind of provider comes first among those that
    /// [`prefer_providers`](Self::prefer_providers) does not list. Default:
    /// [`Preference::Internal`].
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.preferences.general = preference;
        self
    }

    /// Caches the replies of one plugin, of any kind, and returns them for equal requests. See
    /// [`ResponseCache`].
    pub fn cache(mut self, plugin: &str, cache: ResponseCache) -> Self {
        match PluginName::new(plugin) {
            Ok(plugin) => self.layers.cache(plugin, cache),
            Err(error) => {
                let message = format!("the replies of `{plugin}` cannot be cached");
                let error = Error::new(ErrorKind::NotFound, message).caused_by(error);
                self.invalid.get_or_insert(error);
            }
        }
        self
    }

    /// Registers a plugin that is compiled into this program and starts it in
    /// [`build`](Self::build).
    pub fn register<T: Plugin>(mut self, manifest: Manifest) -> Self {
        let source = Source::Type(Root::compiled_in::<T>(), Contracts::default());
        self.compiled_in.push((Ok(manifest), source));
        self
    }

    /// Registers a plugin that is compiled into this program and serves contracts.
    pub fn register_serving<T: Plugin>(mut self, manifest: Manifest, serves: Serves<T>) -> Self {
        match serves.contracts(manifest.name().as_str()) {
            Ok(contracts) => {
                let source = Source::Type(Root::compiled_in::<T>(), contracts);
                self.compiled_in.push((Ok(manifest), source));
            }
            Err(error) => _ = self.invalid.get_or_insert(error),
        }
        self
    }

    /// Registers a value as a plugin that serves contracts and no other calls. See [`Serves`].
    pub fn serve<T>(mut self, name: &str, value: T, serves: Serves<T>) -> Self
    where
        T: Send + Sync + 'static,
    {
        match serves.contracts(name) {
            Ok(contracts) => {
                self.compiled_in.push((manifest_of(name), served_source(value, contracts)));
            }
            Err(error) => _ = self.invalid.get_or_insert(error),
        }
        self
    }

    /// Offers a contract to plugins: `value` serves those that call
    /// [`HostServices::contract`](hotbay_plugin::HostServices::contract), and have the permission
    /// `contract:NAME` with the contract's name in their manifests.
    ///
    /// A method is called on the thread of the plugin, for a program on a new thread, and must not
    /// block for long. It may call plugins, also the one that calls it; more than 64 calls that
    /// wait for each other are refused. If it panics, the plugin gets an error of kind `Panicked`,
    /// and an error is logged. A method with `#[permission]` requires that permission of the calling
    /// plugin, too. Async methods run on a runtime that all compiled-in plugins share (feature
    /// `tokio` of `hotbay-plugin`).
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use hotbay::contract::CallError;
    /// use hotbay::hotbay_plugin::{Config, HostServices};
    /// use hotbay::{CallContext, Host, Manifest, Output, Payload, Plugin, PluginError, Request};
    ///
    /// #[hotbay_plugin::contract(name = "key-value", version = "1.0")]
    /// trait KeyValue {
    ///     fn get(&self, key: &str) -> Result<Option<String>, CallError>;
    /// }
    ///
    /// struct Settings(HashMap<String, String>);
    ///
    /// impl KeyValue for Settings {
    ///     fn get(&self, key: &str) -> Result<Option<String>, CallError> {
    ///         Ok(self.0.get(key).cloned())
    ///     }
    /// }
    ///
    /// /// A plugin that calls it.
    /// struct Greet(HostServices);
    ///
    /// impl Plugin for Greet {
    ///     fn init(_: &Config, host: HostServices) -> Result<Self, PluginError> {
    ///         Ok(Self(host))
    ///     }
    ///     fn execute(&self, _: &CallContext<'_>, name: Payload<'_>) -> Result<Output, PluginError> {
    ///         let greeting = self.0.contract::<dyn KeyValue>()?.get("greeting")?;
    ///         Ok(Output::text(format!("{} {}", greeting.unwrap_or_default(), name.as_text()?)))
    ///     }
    /// }
    ///
    /// let settings = Settings(HashMap::from([("greeting".to_owned(), "Hello".to_owned())]));
    /// let manifest = Manifest::new("greet", "1.0.0")
    ///     .and_then(|manifest| manifest.with_permission("contract:key-value"))
    ///     .expect("a manifest");
    /// let host = Host::builder()
    ///     .service::<dyn KeyValue, _>(settings)
    ///     .register::<Greet>(manifest)
    ///     .build()?;
    /// assert_eq!(host.plugin("greet")?.call(Request::text("Ada"))?.as_text()?, "Hello Ada");
    /// # Ok::<(), hotbay::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`build`](Self::build) fails with `Duplicate` if two values serve one contract.
    pub fn service<C, T>(mut self, value: T) -> Self
    where
        C: ServedBy<T, true> + ?Sized,
        T: Send + Sync + 'static,
    {
        let added = service_of::<C, T>(value).and_then(|service| self.services.add(service));
        if let Err(error) = added {
            self.invalid.get_or_insert(error);
        }
        self
    }

    /// Uses a contract: a plugin that serves an incompatible version of it is rejected before its
    /// library is opened. [`Host::contract`] does the same for plugins that are loaded afterward.
    pub fn contract<C: Contract + ?Sized>(mut self) -> Self {
        self.contracts.push(C::DESCRIPTION);
        self
    }

    /// Registers a function as a plugin.
    ///
    /// ```
    /// # use hotbay::{Host, Output, Request};
    /// let host = Host::builder()
    ///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
    ///     .build()?;
    /// assert_eq!(host.plugin("echo")?.call(Request::text("hello"))?.as_text()?, "hello");
    /// # Ok::<(), hotbay::Error>(())
    /// ```
    pub fn register_fn<F>(mut self, name: &str, function: F) -> Self
    where
        F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
    {
        self.compiled_in.push((manifest_of(name), function_source(function)));
        self
    }

    /// Registers a factory, from which [`Host::create`] makes plugins of the kind `kind`.
    ///
    /// `factory` gets the config of the plugin to create. It runs on a thread of the host within
    /// [`start_timeout`](crate::HostLimits::start_timeout). The last factory registered for a kind
    /// applies.
    ///
    /// ```
    /// use hotbay::hotbay_plugin::{Config, HostServices};
    /// use hotbay::{CallContext, Error, Host, Output, Payload, Plugin, PluginError, Request};
    /// use serde_json::json;
    ///
    /// struct Prefix(String);
    ///
    /// impl Plugin for Prefix {
    ///     fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
    ///         config.parse().map(Self)
    ///     }
    ///     fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
    ///         Ok(Output::text(format!("{}{}", self.0, input.as_text()?)))
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotbay::Error> {
    /// let host = Host::builder()
    ///     .register_factory("prefix", |config: &Config| {
    ///         Ok(Prefix(config.get("prefix").and_then(|it| it.as_str()).unwrap_or(">").to_owned()))
    ///     })
    ///     .build()?;
    /// let quote = host.create("prefix", "quote", json!({ "prefix": "> " })).await?;
    /// assert_eq!(quote.call(Request::text("hello"))?.as_text()?, "> hello");
    /// let error = host.create("suffix", "other", json!({})).await.unwrap_err();
    /// assert!(error.is_not_found());
    /// # Ok(())
    /// # }
    /// ```
    pub fn register_factory<T, F>(mut self, kind: impl Into<String>, factory: F) -> Self
    where
        T: Plugin,
        F: Fn(&Config) -> Result<T, PluginError> + Send + Sync + 'static,
    {
        let construct = move |config: &Config| {
            factory(config).map(|plugin| Instance::compiled_in(plugin, Contracts::default()))
        };
        self.factories.0.insert(kind.into(), Arc::new(construct));
        self
    }

    /// Builds the host and starts the compiled-in plugins, in the order of `requires`. Loads nothing
    /// from the plugin directories.
    ///
    /// Blocks until the compiled-in plugins have started.
    ///
    /// # Errors
    ///
    /// The error of the first compiled-in plugin that did not start; `NotFound` if a validator, a
    /// preference or a cache has an invalid plugin name; `Overloaded` if a thread cannot start.
    pub fn build(self) -> Result<Host, Error> {
        if let Some(invalid) = self.invalid {
            return Err(invalid);
        }
        self.rules.signatures.check()?;
        let contracts = ContractRegistry::default();
        for description in self.contracts {
            let contract = contracts.register(description);
            contract.ok_or_else(|| invalid_contract(description.name))?;
        }
        let staging_dir = self.staging_dir.unwrap_or_else(std::env::temp_dir);
        let dirs: Vec<_> = self.dirs.iter().map(|dir| absolute(dir)).collect();
        let settings = Arc::new(CurrentSettings::new(self.settings));
        let discovery = self.discovery.unwrap_or_else(|| {
            let (dirs, rules) = (dirs.clone(), self.rules.clone());
            Box::new(DirectoryWalk { dirs, rules, settings: Arc::clone(&settings) })
        });
        let services = Arc::new(self.services);
        let contract_calls: Arc<dyn ContractCalls> = Arc::<HostContracts>::clone(&services);
        let (events_owner, events) = EventBus::new();
        let inner = Arc::new(Inner {
            context: Arc::new(LoaderContext {
                rules: self.rules,
                deferred_unloads: DeferredUnloads::new(events.clone(), self.limits.clone()),
                limits: self.limits,
                quarantine: self.quarantine,
                capture_panic_backtrace: self.want_frames,
                default_deadline: self.default_deadline,
                permission_policy: self.permission_policy,
                confinement: self.confinement,
                plugin_dirs: dirs.clone(),
                settings,
                timer: Timer::new(),
                events,
                staging: StagingArea::new(Some(&absolute(&staging_dir)), self.keep_staged).into(),
                abandoned_checks: AbandonedChecks::default(),
                checked_schemas: CheckedSchemas::default(),
                contracts,
                contract_calls,
                #[cfg(all(unix, feature = "process"))]
                processes: hotbay_process::Processes::default(),
                runner: self.runner.as_deref().map(absolute),
                inherit_env: self.environment,
            }),
            background: Arc::default(),
            unloads: Arc::default(),
            layers: self.layers,
            preferences: self.preferences,
            choices: Choices::default(),
            _events: events_owner,
            registry: Registry::new(),
            dirs,
            discovery,
            factories: self.factories,
            cancellation: OnceLock::new(),
            reload_queue: CoalescingQueue::new(),
            watch: Mutex::default(),
            #[cfg(feature = "config-file")]
            config: Mutex::new(ConfigState::new(self.config_file)),
        });
        services.set_host(Arc::downgrade(&inner));
        let host = Host { inner: SameProcess::new(inner) };
        for (candidate, source) in in_order(self.compiled_in)? {
            host.inner.load(&candidate, source, None)?;
        }
        if self.is_watched {
            watch(&host.inner, self.poll_interval, self.unload_removed)?;
            #[cfg(feature = "config-file")]
            watch_config(&host.inner, self.poll_interval)?;
        }
        // After the watch, which a shutdown ends.
        if let Some(token) = self.cancellation {
            let guard = shut_down_with(&host.inner, token)?;
            let _ = host.inner.cancellation.set(guard);
        }
        Ok(host)
    }
}

impl Host {
    /// Returns a builder.
    pub fn builder() -> HostBuilder {
        HostBuilder::new()
    }
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder")
            .field("dirs", &self.dirs)
            .field("rules", &self.rules)
            .field("limits", &self.limits)
            .field("quarantine", &self.quarantine)
            .field("layers", &self.layers)
            .field("compiled_in", &self.compiled_in)
            .field("factories", &self.factories)
            .finish_non_exhaustive()
    }
}

type Compiled = (Candidate, Source);

/// Sorts the compiled-in plugins so that required ones come first.
fn in_order(compiled_in: Vec<(Result<Manifest, Error>, Source)>) -> Result<Vec<Compiled>, Error> {
    let mut candidates = Vec::new();
    for (manifest, source) in compiled_in {
        candidates.push((Candidate::compiled_in(manifest?), source));
    }
    let order = {
        let applicants: Vec<_> = candidates
            .iter()
            .map(|(candidate, _)| StartCandidate::from(&candidate.manifest))
            .collect();
        start_order(&applicants)
    };
    if let Some((index, problem)) = order.refused.into_iter().next() {
        let (candidate, _) = &candidates[index];
        return Err(candidate.not_startable(problem));
    }
    let mut ranks = vec![0; candidates.len()];
    for (rank, index) in order.levels.into_iter().flatten().enumerate() {
        ranks[index] = rank;
    }
    let mut ranked: Vec<_> = ranks.into_iter().zip(candidates).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, compiled)| compiled).collect())
}
