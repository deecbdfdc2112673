//! Registers and creates plugins of this program while the host runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use hotbay_manifest::Manifest;
use hotbay_plugin::{CallContext, Config, Output, Payload, Plugin, PluginError};
use serde_json::Value;

use super::function::Function;
use super::registry::UnloadScope;
use super::{Host, HostBuilder, UnloadReport, nearest, on_thread};
use crate::boundary::{Instance, Root};
use crate::error::{Error, ErrorKind};
use crate::handle::PluginHandle;
use crate::id::PluginName;
use crate::reload::{Candidate, Constructor, Source};

type Construct = Arc<dyn Fn(&Config) -> Result<Instance, PluginError> + Send + Sync>;

/// The factories of a host by kind.
#[derive(Clone, Default)]
pub(super) struct Factories(BTreeMap<String, Construct>);

impl HostBuilder {
    /// Registers a plugin that is compiled into this program and starts it in
    /// [`build`](Self::build).
    pub fn register<T: Plugin>(mut self, manifest: Manifest) -> Self {
        let source = Source::Type(Root::compiled_in::<T>());
        self.compiled_in.push((Ok(manifest), source));
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
        let construct = move |config: &Config| factory(config).map(Instance::compiled_in);
        self.factories.0.insert(kind.into(), Arc::new(construct));
        self
    }
}

impl Host {
    /// Registers a plugin that is compiled into this program and starts it. After an unload it
    /// can be registered again.
    ///
    /// # Errors
    ///
    /// Depends on the step that failed: see [`Error::step`]. `Duplicate` if a plugin of this name
    /// is loaded; `Shutdown`.
    pub async fn register<T: Plugin>(&self, manifest: Manifest) -> Result<PluginHandle, Error> {
        let name = manifest.name().clone();
        self.start(name.as_str(), Ok((manifest, Source::Type(Root::compiled_in::<T>())))).await
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
}

impl Factories {
    /// Returns the constructor of a plugin of this kind.
    fn construct(&self, kind: &str) -> Result<Constructor, Error> {
        let Self(factories) = self;
        let Some(construct) = factories.get(kind) else {
            let error = Error::new(ErrorKind::NotFound, format!("factory `{kind}` not found"));
            let hint = nearest(kind, factories.keys().map(String::as_str), "registered factories");
            return Err(error.with_hint(hint.unwrap_or("no factory is registered".to_owned())));
        };
        let construct = Arc::clone(construct);
        Ok(Constructor(Box::new(move |config| construct(config))))
    }
}

fn manifest_of(name: &str) -> Result<Manifest, Error> {
    Manifest::new(name, "0.0.0").map_err(|error| not_registered(name).caused_by(error))
}

fn not_registered(name: &str) -> Error {
    match PluginName::new(name) {
        Ok(name) => Error::new(ErrorKind::Manifest, "cannot be registered").of(&name),
        Err(_) => Error::new(ErrorKind::Manifest, format!("plugin `{name}` cannot be registered")),
    }
}

fn function_source<F>(function: F) -> Source
where
    F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
{
    let construct = move |_: &Config| Ok(Instance::compiled_in(Function(function)));
    Source::Value(Constructor(Box::new(construct)))
}

impl fmt::Debug for Factories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}
