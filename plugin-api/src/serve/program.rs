//! What the macro puts together: the plugin's type, its names, its endpoints, its schemas.

use std::process::ExitCode;
use std::{env, fmt};

use super::arguments::{self, Asked, InEnvironment};
use super::{capabilities, life, stderr};
use crate::{CallContext, Output, Payload, Plugin, PluginError};

/// A function that answers calls as [`Plugin::execute`] does.
pub type Endpoint<T> = fn(&T, &CallContext<'_>, Payload<'_>) -> Result<Output, PluginError>;

/// A plugin that is about to be served.
pub struct Program<T> {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) endpoints: Vec<(&'static str, Endpoint<T>)>,
    pub(super) config_schema: Option<&'static str>,
    pub(super) input_schema: Option<&'static str>,
}

impl<T: Plugin> Program<T> {
    /// A program of that name and version.
    pub fn new(name: &'static str, version: &'static str) -> Self {
        let (config_schema, input_schema) = (None, None);
        Self { name, version, endpoints: Vec::new(), config_schema, input_schema }
    }

    /// Adds an endpoint of its own.
    #[must_use]
    pub fn endpoint(mut self, name: &'static str, function: Endpoint<T>) -> Self {
        self.endpoints.push((name, function));
        self
    }

    /// Tells the JSON Schema of the configuration.
    #[must_use]
    pub fn config_schema(mut self, schema: &'static str) -> Self {
        self.config_schema = Some(schema);
        self
    }

    /// Tells the JSON Schema of the input.
    #[must_use]
    pub fn input_schema(mut self, schema: &'static str) -> Self {
        self.input_schema = Some(schema);
        self
    }

    /// Does what the arguments ask; returns when the program is to end.
    pub fn run(self) -> ExitCode {
        let capabilities = match capabilities::text(&self) {
            Ok(capabilities) => capabilities,
            Err(mistake) => {
                stderr::error(&mistake, serde_json::Map::new());
                return ExitCode::FAILURE;
            }
        };
        let in_environment = InEnvironment {
            text: env::var_os("HOTBAY_CONFIG"),
            file: env::var_os("HOTBAY_CONFIG_FILE"),
        };
        match arguments::asked(env::args_os().skip(1), in_environment) {
            Ok(Asked::Capabilities) => stderr::print(&capabilities),
            Ok(Asked::Help) => stderr::print(&arguments::help(self.name)),
            Ok(Asked::Start(text)) => life::run(self, &text),
            Err(mistake) => {
                stderr::plain(&format!("{mistake}\n\n{}", arguments::help(self.name)));
                ExitCode::from(2)
            }
        }
    }
}

impl<T> fmt::Debug for Program<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("name", &self.name).finish_non_exhaustive()
    }
}
