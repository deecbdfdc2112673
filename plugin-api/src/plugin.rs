//! The trait that a plugin implements, and the data that only its methods exchange with the host:
//! configuration and snapshots.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::root::AsyncFunctions;
use crate::{CallContext, HostServices, Output, Payload, PluginError};

/// A plugin: a value that the host starts once and calls from many threads.
///
/// A host loads a plugin with [`validate_config`](Self::validate_config), [`init`](Self::init),
/// [`restore`](Self::restore) (after a reload) and [`health`](Self::health). Then it calls
/// [`execute`](Self::execute) until it stops the plugin with [`shutdown`](Self::shutdown). Only
/// `init` and `execute` are required.
///
/// A panic in any method is caught inside the plugin and reaches the host as a
/// [`Fault`](crate::Fault) with its message and location. All methods except `execute` run on
/// threads that the host reserves for this plugin.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use hotbay_plugin::prelude::*;
///
/// /// Counts its calls, and keeps the count when it is reloaded.
/// struct Counter(AtomicU64);
///
/// impl Plugin for Counter {
///     fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
///         Ok(Self(AtomicU64::new(0)))
///     }
///
///     fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
///         Output::json(&(self.0.fetch_add(1, Ordering::Relaxed) + 1))
///     }
///
///     fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
///         Ok(Some(Snapshot::new(1, self.0.load(Ordering::Relaxed).to_string())))
///     }
///
///     fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
///         let text = String::from_utf8_lossy(snapshot.as_bytes());
///         let count = text.parse().map_err(|_| PluginError::new(409, "invalid count"))?;
///         self.0 = AtomicU64::new(count);
///         Ok(())
///     }
/// }
/// # #[cfg(feature = "testing")]
/// # {
///
/// // In a unit test of the plugin:
/// let host = hotbay_plugin::testing::FakeHost::new();
/// let old = host.start::<Counter>(serde_json::json!({}))?;
/// assert_eq!(old.execute(Payload::text(""))?.as_text()?, "1");
/// let mut new = host.start::<Counter>(serde_json::json!({}))?;
/// old.hand_over(&mut new)?;
/// assert_eq!(new.execute(Payload::text(""))?.as_text()?, "2");
/// # }
/// # Ok::<(), PluginError>(())
/// ```
pub trait Plugin: Send + Sync + Sized + 'static {
    /// Starts the plugin. `config` is the `config` of the manifest, validated against its
    /// `config_schema`.
    ///
    /// # Errors
    ///
    /// Any error fails the load, which reports it.
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError>;

    /// Handles one call. Called from many threads at once.
    ///
    /// # Errors
    ///
    /// Any error reaches the caller unchanged.
    fn execute(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError>;

    /// Validates what a JSON Schema cannot express. Runs before [`init`](Self::init).
    ///
    /// # Errors
    ///
    /// Any error fails the load.
    fn validate_config(_config: &Config) -> Result<(), PluginError> {
        Ok(())
    }

    /// Checks whether the plugin can work. Runs before a new build replaces the current one, and
    /// may run again at any time.
    ///
    /// # Errors
    ///
    /// Any error means that the plugin is not healthy; a load or reload then fails.
    fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }

    /// Returns the state that survives a reload, if any.
    ///
    /// # Errors
    ///
    /// Any error rolls the reload back.
    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        Ok(None)
    }

    /// Restores the state of the previous build, after [`init`](Self::init) and before the first
    /// call.
    ///
    /// # Errors
    ///
    /// Any error rolls the reload back. The default implementation rejects every snapshot.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        Err(snapshot.not_restored())
    }

    /// Shuts the plugin down. All calls have returned.
    ///
    /// # Errors
    ///
    /// Any error is reported as an event of the host.
    fn shutdown(self) -> Result<(), PluginError> {
        Ok(())
    }

    /// Returns the functions of an async plugin.
    #[doc(hidden)]
    fn __async_functions() -> AsyncFunctions {
        AsyncFunctions::NONE
    }
}

/// The `config` object of a plugin's manifest.
///
/// ```
/// use hotbay_plugin::Config;
/// use serde::Deserialize;
/// use serde_json::json;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Settings {
///     limit: u32,
/// }
///
/// let config = Config::from(json!({ "limit": 3 }));
/// assert_eq!(config.get("limit"), Some(&json!(3)));
/// assert_eq!(config.parse::<Settings>()?.limit, 3);
///
/// let error = Config::from(json!({ "limit": "x" })).parse::<Settings>().err().unwrap();
/// assert_eq!(error.code(), 400);
/// # Ok::<(), hotbay_plugin::PluginError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Config(Value);

impl Config {
    /// Deserializes the whole object into `T`.
    ///
    /// # Errors
    ///
    /// Code 400 if the object does not match `T`; the message names the mismatch.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PluginError> {
        T::deserialize(&self.0).map_err(|error| {
            PluginError::new(PluginError::BAD_INPUT, format!("invalid config: {error}"))
        })
    }

    /// Returns a member of the object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Returns the whole object.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

impl Default for Config {
    fn default() -> Self {
        Self(Value::Object(Map::new()))
    }
}

impl From<Map<String, Value>> for Config {
    fn from(object: Map<String, Value>) -> Self {
        Self(Value::Object(object))
    }
}

impl From<Value> for Config {
    /// Converts an object; any other value becomes an empty object.
    fn from(value: Value) -> Self {
        if value.is_object() { Self(value) } else { Self::default() }
    }
}

/// The state of a plugin, with the version of its format.
///
/// The plugin chooses the version, and decides in [`Plugin::restore`] which
/// versions it accepts.
///
/// ```
/// use hotbay_plugin::Snapshot;
///
/// let snapshot = Snapshot::new(2, 7_u64.to_le_bytes());
/// assert_eq!(snapshot.version(), 2);
/// assert_eq!(snapshot.as_bytes(), 7_u64.to_le_bytes());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    version: u32,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// Creates a snapshot of `bytes` in the format `version`.
    pub fn new(version: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { version, bytes: bytes.into() }
    }

    /// Returns the version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the error of a plugin that restores no snapshots.
    pub(crate) fn not_restored(&self) -> PluginError {
        let version = self.version;
        let message = format!("cannot restore a snapshot of version {version}: not implemented");
        PluginError::new(PluginError::BAD_INPUT, message)
    }

    /// Converts the snapshot into its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
