//! The plugin `filter`: a JSON array in, the array of those elements out that pass all rules.
//! Elements are never changed, not even in how they are written.

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

use crate::array::{Refusal, keep_passing};
use crate::settings::Settings;

/// The code of the error for an array that holds what a strict rule cannot be asked of.
const UNPROCESSABLE: i32 = 422;

/// The code of the error for a call that nobody waits for any more.
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
            .map_err(|refusal| self.explain(refusal))
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        read(config).map(drop)
    }
}

impl Filter {
    fn explain(&self, refusal: Refusal) -> PluginError {
        match refusal {
            Refusal::NotJson(error) => {
                PluginError::new(PluginError::BAD_INPUT, format!("the input is not JSON: {error}"))
            }
            Refusal::NotAnArray { found } => PluginError::new(
                PluginError::BAD_INPUT,
                format!("the input is {found}; wanted a JSON array"),
            ),
            Refusal::WrongType { index, rule: number, wanted, found } => {
                let rule = &self.settings.rules[number];
                let field = rule.field.to_string();
                let place = if field.is_empty() { String::new() } else { format!(" at `{field}`") };
                PluginError::new(
                    UNPROCESSABLE,
                    format!(
                        "element {index}: found {found}{place}, rule {number} (`{}`) wants {wanted}; \
                         without `strict` such elements are dropped",
                        rule.test.name()
                    ),
                )
                .with_details(json!({ "index": index, "rule": number }))
            }
            Refusal::Cancelled { index } => {
                PluginError::new(CANCELLED, format!("cancelled before element {index}"))
            }
        }
    }
}

fn read(config: &Config) -> Result<Settings, PluginError> {
    Settings::read(config.value())
        .map_err(|why| PluginError::new(PluginError::BAD_INPUT, format!("config: {why}")))
}

export_plugin!(Filter);
