//! A fake host for a plugin author's unit tests: starts a plugin as a host would, without a
//! library, and keeps what it logs. Panics are not caught, so that a test fails where it should.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Number, Value};

use crate::context::{Bounds, RawContext};
use crate::services::{RawServices, Record, ServiceHost};
use crate::{CallContext, Config, HostServices, Level, Output, Payload, Plugin, PluginError};
use crate::{ServiceError, Snapshot};

/// A line that a plugin logged, with all that came with it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Logged {
    /// How much it matters.
    pub level: Level,
    /// The part of the plugin that spoke; empty for [`HostServices::log`].
    pub target: String,
    /// What it said.
    pub message: String,
    /// Its fields: an object.
    pub fields: Value,
}

/// What the services of one host write to.
#[derive(Debug)]
struct Log {
    lines: Mutex<Vec<Logged>>,
    level: AtomicU32,
}

static HOSTS: Mutex<Option<HashMap<u64, Arc<Log>>>> = Mutex::new(None);
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// A host that has no libraries, only the services.
#[derive(Debug)]
pub struct FakeHost {
    token: u64,
    log: Arc<Log>,
}

impl FakeHost {
    /// Makes a host of its own.
    pub fn new() -> Self {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        let level = AtomicU32::new(Level::Trace as u32);
        let log = Arc::new(Log { lines: Mutex::default(), level });
        lock(&HOSTS).get_or_insert_default().insert(token, Arc::clone(&log));
        Self { token, log }
    }

    /// Starts a plugin as a host does: checks the configuration, then init, then health.
    ///
    /// # Errors
    ///
    /// The plugin's own.
    pub fn start<T: Plugin>(&self, config: Value) -> Result<Started<T>, PluginError> {
        let config = Config::from(config);
        T::validate_config(&config)?;
        let plugin = T::init(&config, self.services())?;
        plugin.health()?;
        Ok(Started { plugin })
    }

    /// What a plugin of this host gets.
    pub fn services(&self) -> HostServices {
        HostServices::new(RawServices::of::<FakeServices>(self.token))
    }

    /// Everything logged so far, in order.
    pub fn logs(&self) -> Vec<(Level, String)> {
        self.logged().into_iter().map(|line| (line.level, line.message)).collect()
    }

    /// Everything logged so far, in order, with targets and fields.
    pub fn logged(&self) -> Vec<Logged> {
        lock(&self.log.lines).clone()
    }

    /// Wants only lines that matter at least that much from now on; at first, all.
    pub fn want(&self, level: Level) {
        self.log.level.store(level as u32, Ordering::Relaxed);
    }

    /// The subscriber that a library of this plugin would have. A test sets it for what it
    /// runs, with `tracing::subscriber::with_default`.
    #[cfg(feature = "tracing")]
    pub fn subscriber(&self) -> impl tracing_core::Subscriber + Send + Sync + use<> {
        crate::bridge::ForwardingSubscriber(crate::bridge::Destination::Fixed(self.services()))
    }

    /// The logger that a library of this plugin would have.
    #[cfg(feature = "log")]
    pub fn logger(&self) -> impl log::Log + use<> {
        crate::bridge::ForwardingLogger(crate::bridge::Destination::Fixed(self.services()))
    }

    /// Stops serving: from here on the services answer `Closed`, as after an unload.
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

/// A plugin that was started.
#[derive(Debug)]
pub struct Started<T> {
    plugin: T,
}

impl<T: Plugin> Started<T> {
    /// Calls the plugin with no deadline.
    ///
    /// # Errors
    ///
    /// The plugin's own.
    pub fn execute(&self, input: Payload<'_>) -> Result<Output, PluginError> {
        self.plugin.execute(&CallContext::new(&RawContext::new(1)), input)
    }

    /// Calls the plugin with a time that is left and a flag that may be set while it runs.
    ///
    /// # Errors
    ///
    /// The plugin's own.
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

    /// The plugin itself.
    pub fn plugin(&self) -> &T {
        &self.plugin
    }

    /// Hands the state to a plugin that was just started, as a reload does.
    ///
    /// # Errors
    ///
    /// Those of `snapshot` and `restore`.
    pub fn hand_over(&self, next: &mut Self) -> Result<Option<Snapshot>, PluginError> {
        let snapshot = self.plugin.snapshot()?;
        if let Some(snapshot) = snapshot.clone() {
            next.plugin.restore(snapshot)?;
        }
        Ok(snapshot)
    }

    /// Ends the plugin.
    ///
    /// # Errors
    ///
    /// The plugin's own.
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

/// Takes the types off that values cross the boundary with.
fn without_type_tags(mut fields: Value) -> Value {
    for value in fields.as_object_mut().into_iter().flat_map(Map::values_mut) {
        let typed = ["u64", "f64", "debug"].iter().find_map(|of_type| value.get(of_type));
        let Some(typed) = typed.cloned() else { continue };
        let number = value.get("f64").and_then(Value::as_str).and_then(|text| text.parse().ok());
        *value = number.and_then(Number::from_f64).map_or(typed, Value::Number);
    }
    fields
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
