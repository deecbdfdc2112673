//! The builder that `serve_plugin!` uses: type, name, endpoints and schemas of a program.

use std::process::ExitCode;
use std::{env, fmt};

use hotbay_protocol::variable;

use super::command_line::{self, Command, EnvConfig};
use super::{capabilities, console, lifecycle};
use crate::{CallContext, Output, Payload, Plugin, PluginError};

/// A function that handles calls, with the signature of [`Plugin::execute`].
pub type Endpoint<T> = fn(&T, &CallContext<'_>, Payload<'_>) -> Result<Output, PluginError>;

/// A plugin and the settings to serve it with.
pub struct Program<T> {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) endpoints: Vec<(&'static str, Endpoint<T>)>,
    pub(super) config_schema: Option<&'static str>,
    pub(super) input_schema: Option<&'static str>,
}

impl<T: Plugin> Program<T> {
    /// Creates a program with the given name and version.
    pub fn new(name: &'static str, version: &'static str) -> Self {
        let (config_schema, input_schema) = (None, None);
        Self { name, version, endpoints: Vec::new(), config_schema, input_schema }
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn endpoint(mut self, name: &'static str, function: Endpoint<T>) -> Self {
        self.endpoints.push((name, function));
        self
    }

    /// Sets the JSON Schema of the configuration.
    #[must_use]
    pub fn config_schema(mut self, schema: &'static str) -> Self {
        self.config_schema = Some(schema);
        self
    }

    /// Sets the JSON Schema of the input.
    #[must_use]
    pub fn input_schema(mut self, schema: &'static str) -> Self {
        self.input_schema = Some(schema);
        self
    }

    /// Executes the command of the command line; returns when the program has to exit.
    pub fn run(self) -> ExitCode {
        let capabilities = match capabilities::to_json(&self) {
            Ok(capabilities) => capabilities,
            Err(message) => {
                console::error(&message, serde_json::Map::new());
                return ExitCode::FAILURE;
            }
        };
        let env_config = EnvConfig {
            text: env::var_os(variable::CONFIG),
            file: env::var_os(variable::CONFIG_FILE),
        };
        match command_line::parse(env::args_os().skip(1), env_config) {
            Ok(Command::Capabilities) => console::print(&capabilities),
            Ok(Command::Help) => console::print(&command_line::usage(self.name)),
            Ok(Command::Serve(text)) => lifecycle::run(self, &text),
            Err(message) => {
                console::write_line(&format!("{message}\n\n{}", command_line::usage(self.name)));
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
