//! The plugin `transform`: transforms UTF-8 text by the mode in its config.

#![forbid(unsafe_code)]

mod case;
mod markdown;
mod mode;
mod slug;
#[cfg(test)]
mod tests;

use hotbay_plugin::prelude::*;
use serde::Deserialize;

use crate::markdown::RawHtml;
use crate::mode::{Mode, Transformed};

/// Error code of text that cannot be transformed in the configured mode.
const UNPROCESSABLE: i32 = 422;

/// Transforms text: case, title, reverse, slug, or Markdown to HTML.
#[derive(Debug)]
pub struct Transform {
    mode: Mode,
    raw_html: RawHtml,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    mode: Mode,
    allow_html: bool,
}

impl Plugin for Transform {
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        let settings: Settings = config.parse()?;
        host.debug(&format!("mode is `{}`", settings.mode.name()));
        let raw_html = if settings.allow_html { RawHtml::Allowed } else { RawHtml::Escaped };
        Ok(Self { mode: settings.mode, raw_html })
    }

    fn execute(&self, _ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        match self.mode.apply(input.as_text()?, self.raw_html) {
            Transformed::Text(text) => Ok(Output::text(text)),
            Transformed::Html(html) => Ok(Output::html(html)),
            Transformed::NothingToSlug => Err(PluginError::new(
                UNPROCESSABLE,
                format!(
                    "cannot create a slug: the input ({} bytes) contains no letter or digit",
                    input.len()
                ),
            )),
        }
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        config.parse::<Settings>().map(drop)
    }
}

export_plugin!(Transform);
