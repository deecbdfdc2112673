//! The config of the plugin.

use std::path::PathBuf;
use std::time::Duration;

use hotbay_plugin::{Config, PluginError};
use serde::Deserialize;

/// The config; `plugin.json` describes its fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) file: PathBuf,
    #[serde(default = "default_readers")]
    pub(crate) readers: usize,
    #[serde(default = "default_timeout_ms")]
    timeout_ms: u64,
    #[serde(default)]
    pub(crate) synchronous: Synchronous,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Synchronous {
    #[default]
    Full,
    Normal,
}

impl Settings {
    /// Parses and checks the config, also for hosts that do not check it against its schema.
    pub(crate) fn parse(config: &Config) -> Result<Self, PluginError> {
        let settings: Self = config.parse()?;
        let check = |field: &str, number: u64, max: u64| {
            let message = format!("`{field}` is {number}; expected 1 to {max}");
            (1..=max).contains(&number).then_some(()).ok_or_else(|| PluginError::new(400, message))
        };
        check("readers", settings.readers as u64, 64)?;
        check("timeout_ms", settings.timeout_ms, 600_000)?;
        Ok(settings)
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl Synchronous {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Normal => "NORMAL",
        }
    }
}

fn default_readers() -> usize {
    4
}

fn default_timeout_ms() -> u64 {
    5000
}
