//! The plugin `filter`: returns the elements of a JSON array that pass all rules, unchanged.

#![forbid(unsafe_code)]

mod array;
mod decimal;
mod pointer;
mod rule;
mod settings;
#[cfg(test)]
mod tests;

use hotbay_plugin::prelude::*;
use serde_json::json;

use crate::array::{FilterError, keep_passing};
use crate::settings::Settings;

/// Error code if an element has the wrong type for a strict rule.
const UNPROCESSABLE: i32 = 422;

/// Error code if the call was cancelled.
const CANCELLED: i32 = 499;

/// Keeps the elements of a JSON array that pass all rules.
#[derive(Debug)]
pub struct Filter {
    settings: Settings,
}

impl Plugin for Filter {
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        let settings = read(config)?;
        host.debug(&format!("{} rules, strict: {}", settings.rules.len(), settings.strict));
        Ok(Self { settings })
    }

    fn execute(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        keep_passing(&self.settings, input.as_text()?, || ctx.is_cancelled())
            .map(|array| Output::text(array).with_content_type(ContentType::JSON))
            .map_err(|error| self.explain(error))
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        read(config).map(drop)
    }
}

impl Filter {
    fn explain(&self, error: FilterError) -> PluginError {
        match error {
            FilterError::NotJson(error) => {
                PluginError::new(PluginError::BAD_INPUT, format!("the input is not JSON: {error}"))
            }
            FilterError::NotAnArray { found } => PluginError::new(
                PluginError::BAD_INPUT,
                format!("invalid input: expected a JSON array, found {found}"),
            ),
            FilterError::WrongType { index, rule: number, expected, found } => {
                let rule = &self.settings.rules[number];
                let field = rule.field.to_string();
                let place = if field.is_empty() { String::new() } else { format!(" at `{field}`") };
                PluginError::new(
                    UNPROCESSABLE,
                    format!(
                        "element {index}: rule {number} (`{}`) expected {expected}{place}, found {found}; \
                         without `strict`, such elements are dropped",
                        rule.condition.name()
                    ),
                )
                .with_details(json!({ "index": index, "rule": number }))
            }
            FilterError::Cancelled { index } => {
                PluginError::new(CANCELLED, format!("cancelled before element {index}"))
            }
        }
    }
}

fn read(config: &Config) -> Result<Settings, PluginError> {
    Settings::read(config.value()).map_err(|message| {
        PluginError::new(PluginError::BAD_INPUT, format!("invalid config: {message}"))
    })
}

export_plugin!(Filter);
