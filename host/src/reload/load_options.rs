//! The options of one load, which replace fields of the manifest.

use std::fmt;

use hotbay_manifest::{Limits, Manifest, ManifestError};
use hotbay_plugin::Snapshot;
use serde_json::Value;

/// Options of [`Host::load_with`](crate::Host::load_with), which replace fields of `plugin.json`.
///
/// They apply to later reloads of the plugin too, except for the state. If they set no name, they
/// also apply when the watched manifest gets another name.
///
/// ```
/// use hotbay::LoadOptions;
/// use serde_json::json;
///
/// let options = LoadOptions::new()
///     .with_name("orders-eu")
///     .with_config(json!({ "region": "eu", "token": "secret" }));
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct LoadOptions {
    name: Option<String>,
    config: Option<Value>,
    limits: Option<Limits>,
    state: Option<Snapshot>,
}

impl LoadOptions {
    /// Creates options that replace nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the plugin, so that one folder can be loaded more than once. Validators,
    /// caches and preferences of the host apply to the plugin of this name.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the config, an object, instead of the one in the file. It must satisfy the manifest's
    /// `config_schema`. A secret set here is in no file of the plugin.
    pub fn with_config(mut self, config: Value) -> Self {
        self.config = Some(config);
        self
    }

    /// Sets the limits. A field that is `None` keeps the manifest's value.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Sets the state that the plugin restores before its first call.
    pub fn with_state(mut self, state: Snapshot) -> Self {
        self.state = Some(state);
        self
    }

    /// Takes the state out, which only the first generation gets.
    pub(crate) fn take_state(&mut self) -> Option<Snapshot> {
        self.state.take()
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn replaces_config(&self) -> bool {
        self.config.is_some()
    }

    /// Returns `manifest` with its fields replaced.
    pub(super) fn apply(&self, mut manifest: Manifest) -> Result<Manifest, ManifestError> {
        if let Some(name) = &self.name {
            manifest = manifest.with_name(name)?;
        }
        if let Some(config) = &self.config {
            manifest = manifest.with_config(config.clone())?;
        }
        if let Some(limits) = &self.limits {
            let limits = limits.or(manifest.limits());
            manifest = manifest.with_limits(limits)?;
        }
        Ok(manifest)
    }
}

/// Prints no config: it may hold a secret.
impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
