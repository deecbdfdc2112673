//! Counts, and keeps its count through reloads: to see state live on from build to build.

#![forbid(unsafe_code)]

mod state;

use std::sync::atomic::{AtomicU64, Ordering};

use hotbay_plugin::prelude::*;
use serde::Deserialize;

/// The plugin: a total that calls add to.
#[derive(Debug)]
pub struct Counter {
    step: u64,
    total: AtomicU64,
    host: HostServices,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    start: u64,
    step: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { start: 0, step: 1 }
    }
}

impl Plugin for Counter {
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        let Settings { start, step } = config.parse()?;
        Ok(Self { step, total: AtomicU64::new(start), host })
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let add = self.asked(input)?;
        let added = |total: u64| total.checked_add(add);
        let before = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
        match before {
            Ok(before) => Output::json(&(before + add)),
            Err(total) => {
                let message = format!("{total} and {add} are more than {}", u64::MAX);
                Err(PluginError::new(422, message))
            }
        }
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        config.parse::<Settings>().map(drop)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        state::written(self.total.load(Ordering::Relaxed)).map(Some)
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        let total = state::read(&snapshot)?;
        self.host.info(&format!("goes on from {total}"));
        self.total = AtomicU64::new(total);
        Ok(())
    }
}

impl Counter {
    /// What an input asks to add: a number, `+N`, or nothing.
    fn asked(&self, input: Payload<'_>) -> Result<u64, PluginError> {
        let text = input.as_text()?.trim();
        if text.is_empty() {
            return Ok(self.step);
        }
        let digits = text.strip_prefix('+').unwrap_or(text);
        // `parse` would take a second sign.
        let number = digits.starts_with(|first: char| first.is_ascii_digit());
        let number = number.then(|| digits.parse().ok()).flatten();
        number.ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            let message = format!("`{shown}` is no number to add, such as `7` or `+7`");
            PluginError::new(400, message)
        })
    }
}

export_plugin!(Counter);

#[cfg(test)]
mod tests;
