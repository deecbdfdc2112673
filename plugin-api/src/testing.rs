//! A fake host for unit tests of plugins. It starts a plugin as a host does, but without a library,
//! and records its log. Panics are not caught, so that they fail the test.
//!
//! Enable the feature `testing` of this crate under `[dev-dependencies]`.
//!
//! ```
//! use hotbay_plugin::prelude::*;
//! use hotbay_plugin::testing::FakeHost;
//! use serde_json::json;
//!
//! struct Greet(String);
//!
//! impl Plugin for Greet {
//!     fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
//!         let name = config.get("name").and_then(|name| name.as_str());
//!         let name = name.ok_or_else(|| PluginError::new(400, "missing `name`"))?;
//!         host.info("started");
//!         Ok(Self(name.to_owned()))
//!     }
//!
//!     fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
//!         Ok(Output::text(format!("{}, {}!", input.as_text()?, self.0)))
//!     }
//! }
//!
//! let host = FakeHost::new();
//! assert_eq!(host.start::<Greet>(json!({})).err().unwrap().message(), "missing `name`");
//!
//! let plugin = host.start::<Greet>(json!({ "name": "Ada" }))?;
//! assert_eq!(plugin.execute(Payload::text("Hello"))?.as_text()?, "Hello, Ada!");
//! assert_eq!(host.logs(), [(Level::Info, "started".to_owned())]);
//! plugin.shutdown()?;
//! # Ok::<(), PluginError>(())
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Number, Value};

use crate::context::{Bounds, RawContext};
use crate::services::{RawServices, Record, ServiceHost};
use crate::{
    CallContext, Config, HostServices, Level, Output, Payload, Plugin, PluginError, ServiceError,
    Snapshot,
};

/// A line that a plugin logged.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Logged {
    /// Severity.
    pub level: Level,
    /// The part of the plugin that logged it; empty for [`HostServices::log`].
    pub target: String,
    /// Message.
    pub message: String,
    /// Fields: a JSON object.
    pub fields: Value,
}

/// The log of one fake host.
#[derive(Debug)]
struct Log {
    lines: Mutex<Vec<Logged>>,
    level: AtomicU32,
}

static HOSTS: Mutex<Option<HashMap<u64, Arc<Log>>>> = Mutex::new(None);
/// Not a token of a host in the same process, whose functions would accept it.
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1 << 62);

/// A host for tests, with services but without libraries.
///
/// ```
/// use hotbay_plugin::testing::FakeHost;
///
/// let host = FakeHost::new();
/// host.services().log(hotbay_plugin::Level::Info, "started").unwrap();
/// assert_eq!(host.logged()[0].message, "started");
/// ```
#[derive(Debug)]
pub struct FakeHost {
    token: u64,
    log: Arc<Log>,
}

impl FakeHost {
    /// Creates a host.
    pub fn new() -> Self {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        let level = AtomicU32::new(Level::Trace as u32);
        let log = Arc::new(Log { lines: Mutex::default(), level });
        lock(&HOSTS).get_or_insert_default().insert(token, Arc::clone(&log));
        Self { token, log }
    }

    /// Starts a plugin as a host does: `validate_config`, `init`, `health`.
    ///
    /// # Errors
    ///
    /// Errors of the plugin.
    pub fn start<T: Plugin>(&self, config: Value) -> Result<Started<T>, PluginError> {
        let config = Config::from(config);
        T::validate_config(&config)?;
        let plugin = T::init(&config, self.services())?;
        plugin.health()?;
        Ok(Started { plugin })
    }

    /// Returns the services that a plugin of this host receives.
    pub fn services(&self) -> HostServices {
        HostServices::new(RawServices::of::<FakeServices>(self.token))
    }

    /// Returns all lines logged so far, in order.
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.logged().into_iter().map(|line| (line.level, line.message)).collect()
    }

    /// Returns all lines logged so far, in order, with targets and fields.
    pub fn logged(&self) -> Vec<Logged> {
        lock(&self.log.lines).clone()
    }

    /// Sets the most verbose level to record from now on; initially [`Level::Trace`].
    pub fn want(&self, level: Level) {
        self.log.level.store(level as u32, Ordering::Relaxed);
    }

    /// Returns the subscriber that a library of this plugin would install. Tests set it by
    /// `tracing::subscriber::with_default`.
    #[cfg(feature = "tracing")]
    pub fn subscriber(&self) -> impl tracing_core::Subscriber + Send + Sync + use<> {
        crate::bridge::ForwardingSubscriber(crate::bridge::Destination::Fixed(self.services()))
    }

    /// Returns the logger that a library of this plugin would install.
    #[cfg(feature = "log")]
    pub fn logger(&self) -> impl log::Log + use<> {
        crate::bridge::ForwardingLogger(crate::bridge::Destination::Fixed(self.services()))
    }

    /// Stops serving: the services return [`ServiceError::Closed`] from now on, as after an unload.
    pub fn close(&self) {
        lock(&HOSTS).get_or_insert_default().remove(&self.token);
    }
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        self.close();
    }
}

/// A started plugin.
#[derive(Debug)]
pub struct Started<T> {
    plugin: T,
}

impl<T: Plugin> Started<T> {
    /// Calls the plugin without a deadline.
    ///
    /// # Errors
    ///
    /// Errors of the plugin.
    pub fn execute(&self, input: Payload<'_>) -> Result<Output, PluginError> {
        self.plugin.execute(&CallContext::new(&RawContext::new(1)), input)
    }

    /// Calls the plugin with a remaining time and a flag that cancels the call when set.
    ///
    /// # Errors
    ///
    /// Errors of the plugin.
    pub fn execute_within(
        &self,
        remaining: Duration,
        cancelled: &AtomicBool,
        input: Payload<'_>,
    ) -> Result<Output, PluginError> {
        let bounds = CallLimits { remaining, cancelled };
        let context = RawContext::new(1).with_bounds(&bounds);
        self.plugin.execute(&CallContext::new(&context), input)
    }

    /// Returns the plugin.
    pub fn plugin(&self) -> &T {
        &self.plugin
    }

    /// Moves the state to a plugin that was just started, as a reload does. Returns the state.
    ///
    /// # Errors
    ///
    /// Errors of `snapshot` and `restore`.
    pub fn hand_over(&self, next: &mut Self) -> Result<Option<Snapshot>, PluginError> {
        let snapshot = self.plugin.snapshot()?;
        if let Some(snapshot) = snapshot.clone() {
            next.plugin.restore(snapshot)?;
        }
        Ok(snapshot)
    }

    /// Shuts the plugin down.
    ///
    /// # Errors
    ///
    /// Errors of the plugin.
    pub fn shutdown(self) -> Result<(), PluginError> {
        self.plugin.shutdown()
    }
}

struct CallLimits<'a> {
    remaining: Duration,
    cancelled: &'a AtomicBool,
}

impl Bounds for CallLimits<'_> {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn remaining(&self) -> Option<Duration> {
        Some(self.remaining)
    }
}

struct FakeServices;

impl ServiceHost for FakeServices {
    fn log(token: u64, record: &Record<'_>) -> Result<(), ServiceError> {
        let log = log_of(token).ok_or(ServiceError::Closed)?;
        if record.level as u32 > log.level.load(Ordering::Relaxed) {
            return Ok(());
        }
        let fields = serde_json::from_str(record.fields).unwrap_or_else(|_| Map::new().into());
        lock(&log.lines).push(Logged {
            level: record.level,
            target: record.target.to_owned(),
            message: record.message.to_owned(),
            fields: without_type_tags(fields),
        });
        Ok(())
    }

    fn log_level(token: u64) -> u32 {
        log_of(token).map_or(0, |log| log.level.load(Ordering::Relaxed))
    }

    fn thread_panicked(_: u64, _: &str, _: &str) -> Result<(), ServiceError> {
        Ok(())
    }
}

fn log_of(token: u64) -> Option<Arc<Log>> {
    lock(&HOSTS).as_ref()?.get(&token).cloned()
}

/// Removes the type tags with which values cross the boundary.
fn without_type_tags(mut fields: Value) -> Value {
    for value in fields.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let typed = ["u64", "f64", "debug"].iter().find_map(|tag| value.get(tag));
        let Some(typed) = typed.cloned() else { continue };
        let number = value.get("f64").and_then(Value::as_str).and_then(|text| text.parse().ok());
        *value = number.and_then(Number::from_f64).map_or(typed, Value::Number);
    }
    fields
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
