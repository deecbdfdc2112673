//! The plugin `counter`: counts, and keeps its count across reloads, to demonstrate state.

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
        let increment = self.parse_increment(input)?;
        let added = |total: u64| total.checked_add(increment);
        let previous = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
        match previous {
            Ok(previous) => Output::json(&(previous + increment)),
            Err(total) => {
                let message =
                    format!("count overflow: {total} + {increment} is greater than {}", u64::MAX);
                Err(PluginError::new(422, message))
            }
        }
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        config.parse::<Settings>().map(drop)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        state::write(self.total.load(Ordering::Relaxed)).map(Some)
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        let total = state::read(&snapshot)?;
        self.host.info(&format!("restored the total {total}"));
        self.total = AtomicU64::new(total);
        Ok(())
    }
}

impl Counter {
    /// Returns the number to add: that of the input (`N` or `+N`), or the step if it is empty.
    fn parse_increment(&self, input: Payload<'_>) -> Result<u64, PluginError> {
        let text = input.as_text()?.trim();
        if text.is_empty() {
            return Ok(self.step);
        }
        let digits = text.strip_prefix('+').unwrap_or(text);
        // `parse` would accept a second sign.
        let is_number = digits.starts_with(|first: char| first.is_ascii_digit());
        let number = is_number.then(|| digits.parse().ok()).flatten();
        number.ok_or_else(|| {
            let start: String = text.chars().take(40).collect();
            let message = format!("invalid input `{start}`: expected a number such as `7` or `+7`");
            PluginError::new(400, message)
        })
    }
}

export_plugin!(Counter);

#[cfg(test)]
mod tests;
