//! A fake host for a plugin author's unit tests: starts a plugin as a host would, without a
//! library, and keeps what it logs. Panics are not caught, so that a test fails where it should.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::context::{Bounds, RawContext};
use crate::services::{RawServices, ServiceHost};
use crate::{CallContext, Config, HostServices, Level, Output, Payload, Plugin, PluginError};
use crate::{ServiceError, Snapshot};

type Lines = Arc<Mutex<Vec<(Level, String)>>>;

static HOSTS: Mutex<Option<HashMap<u64, Lines>>> = Mutex::new(None);
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// A host that has no libraries, only the services.
#[derive(Debug)]
pub struct FakeHost {
    token: u64,
    lines: Lines,
}

impl FakeHost {
    /// Makes a host of its own.
    pub fn new() -> Self {
        let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
        let lines = Lines::default();
        lock(&HOSTS).get_or_insert_default().insert(token, Arc::clone(&lines));
        Self { token, lines }
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
        HostServices::new(RawServices::of::<Fake>(self.token))
    }

    /// Everything logged so far, in order.
    pub fn logs(&self) -> Vec<(Level, String)> {
        lock(&self.lines).clone()
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
        let bounds = Within { remaining, cancelled };
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

struct Within<'a> {
    remaining: Duration,
    cancelled: &'a AtomicBool,
}

impl Bounds for Within<'_> {
    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn remaining(&self) -> Option<Duration> {
        Some(self.remaining)
    }
}

struct Fake;

impl ServiceHost for Fake {
    fn log(token: u64, level: Level, message: &str) -> Result<(), ServiceError> {
        let hosts = lock(&HOSTS);
        let lines = hosts.as_ref().and_then(|hosts| hosts.get(&token));
        lock(lines.ok_or(ServiceError::Closed)?).push((level, message.to_owned()));
        Ok(())
    }

    fn thread_panicked(_: u64, _: &str, _: &str) -> Result<(), ServiceError> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
