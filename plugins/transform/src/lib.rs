//! The plugin `transform`: UTF-8 text in, changed text out, by the mode in its config.
//! It keeps no state, and no request changes what the config says.

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
use crate::mode::{Changed, Mode};

/// The code of the error for text that cannot be changed the way the config says.
const UNPROCESSABLE: i32 = 422;

/// Changes text: case, title, reverse, slug, or Markdown to HTML.
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
            Changed::Text(text) => Ok(Output::text(text)),
            Changed::Html(html) => Ok(Output::html(html)),
            Changed::NothingToSlug => Err(PluginError::new(
                UNPROCESSABLE,
                format!(
                    "no slug: none of the {} bytes of input becomes a letter or digit; \
                     send text with at least one",
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
