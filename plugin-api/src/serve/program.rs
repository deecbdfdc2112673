//! The builder that `serve_plugin!` uses: type, name, endpoints and schemas of a program, which are
//! also its capabilities.

use std::ffi::OsString;
use std::process::ExitCode;
use std::{env, fmt};

use hotbay_protocol::{Capabilities, OwnCapabilities, VERSION, endpoint, frame, variable};
use serde_json::Value;

use super::call::Endpoint;
use super::console::{self, Command, EnvConfig};
use super::contracts::Contracts;
use super::lifecycle;
use super::server::Functions;
use crate::Plugin;
#[cfg(feature = "contracts")]
use crate::contract::ContractText;
#[cfg(feature = "contracts")]
use crate::contract::internal::{ServedBy, ServedMethod};

/// Endpoints of every program, beside `healthz` and `shutdown`.
const STANDARD_ENDPOINTS: [&str; 4] =
    [endpoint::EXECUTE, endpoint::SNAPSHOT, endpoint::RESTORE, endpoint::BATCH];

/// A plugin and the settings to serve it with.
pub struct Program<T: 'static> {
    name: &'static str,
    version: &'static str,
    functions: Functions<T>,
    config_schema: Option<&'static str>,
    input_schema: Option<&'static str>,
}

impl<T: Plugin> Program<T> {
    /// Creates a program with the given name and version.
    pub fn new(name: &'static str, version: &'static str) -> Self {
        let (config_schema, input_schema) = (None, None);
        let functions = Functions { endpoints: Vec::new(), contracts: Contracts::default() };
        Self { name, version, functions, config_schema, input_schema }
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn endpoint(mut self, name: &'static str, function: Endpoint<T>) -> Self {
        self.functions.endpoints.push((name, function));
        self
    }

    /// Adds a contract.
    #[cfg(feature = "contracts")]
    #[must_use]
    pub fn contract<C: ServedBy<T, true> + ?Sized>(mut self) -> Self {
        self.functions.contracts.add::<C>();
        self
    }

    /// Adds a contract that is known only by its text.
    #[cfg(feature = "contracts")]
    #[must_use]
    pub fn methods(mut self, text: &ContractText, methods: &'static [ServedMethod<T>]) -> Self {
        // Like the names of other contracts, it is used until the program exits.
        let name: &'static str = Box::leak(text.name.clone().into_boxed_str());
        self.functions.contracts.add_methods(name, text.to_string(), methods);
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
        self.run_with(env::args_os().skip(1))
    }

    /// Executes the command in these arguments, like [`run`](Self::run).
    pub fn run_with(self, arguments: impl Iterator<Item = OsString>) -> ExitCode {
        let capabilities = match capabilities_of(&self) {
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
        match console::parse_arguments(arguments, env_config) {
            Ok(Command::Capabilities) => console::print(&capabilities),
            Ok(Command::Help) => console::print(&console::usage(self.name)),
            Ok(Command::Serve(text)) => lifecycle::run(self.name, self.functions, &text),
            Err(message) => {
                console::write_line(&format!("{message}\n\n{}", console::usage(self.name)));
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

/// Returns the capabilities of a program as JSON.
///
/// # Errors
///
/// A message for people if an argument of `serve_plugin!` is invalid.
fn capabilities_of<T: Plugin>(program: &Program<T>) -> Result<String, String> {
    let functions = &program.functions;
    let own: Vec<_> = functions.endpoints.iter().map(|(name, _)| *name).collect();
    check_names(&own)?;
    let schema = |name: &str, schema: Option<&str>| match schema {
        None => Ok(None),
        Some(schema) => serde_json::from_str::<Value>(schema)
            .map(Some)
            .map_err(|error| format!("invalid JSON in `{name}` of `serve_plugin!`: {error}")),
    };
    let hotbay = OwnCapabilities {
        config: &["env", "file"],
        config_schema: schema("config_schema", program.config_schema)?,
        contracts: functions.contracts.texts()?,
        endpoints: STANDARD_ENDPOINTS.into_iter().chain(own).collect(),
        input_schema: schema("input_schema", program.input_schema)?,
        name: program.name,
        protocol: VERSION,
        upgrades: &[frame::UPGRADE],
        version: program.version,
    };
    Ok(serde_json::to_string(&Capabilities { hotbay }).expect("its only maps are those of `Value`"))
}

fn check_names(own: &[&str]) -> Result<(), String> {
    for (index, name) in own.iter().enumerate() {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if name.is_empty() || name.starts_with('/') || !name.bytes().all(is_valid) {
            return Err(format!(
                "invalid endpoint name `{name}` in `serve_plugin!`: expected ASCII letters, \
                 digits and `-_./`, such as `v1/rows`"
            ));
        }
        if *name == endpoint::EXECUTE
            || endpoint::OF_PROTOCOL.contains(name)
            || name.starts_with(endpoint::CONTRACT_PREFIX)
            || own[..index].contains(name)
        {
            return Err(format!("endpoint `{name}` of `serve_plugin!` already exists"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CallContext, Config, HostServices, Output, Payload, PluginError};
    use serde_json::json;

    struct Rows;

    impl Plugin for Rows {
        fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
            Ok(Self)
        }

        fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
            Ok(Output::text(""))
        }
    }

    fn program() -> Program<Rows> {
        Program::new("rows", "0.1.0")
    }

    #[test]
    fn capabilities_list_name_endpoints_and_schemas() {
        let capabilities = capabilities_of(&program()).unwrap();
        let expected = r#"{"hotbay":{"config":["env","file"],"endpoints":["execute","snapshot","restore","batch"],"name":"rows","protocol":1,"upgrades":["hotbay-frames/1"],"version":"0.1.0"}}"#;
        assert_eq!(
            serde_json::from_str::<Value>(&capabilities).unwrap(),
            serde_json::from_str::<Value>(expected).unwrap()
        );
        let program = program()
            .endpoint("rows", Rows::execute)
            .config_schema(r#"{"type":"object"}"#)
            .input_schema("true");
        let capabilities: Value =
            serde_json::from_str(&capabilities_of(&program).unwrap()).unwrap();
        assert_eq!(capabilities["hotbay"]["endpoints"][4], "rows");
        assert_eq!(capabilities["hotbay"]["configSchema"], json!({ "type": "object" }));
        assert_eq!(capabilities["hotbay"]["inputSchema"], true);
    }

    #[test]
    fn invalid_macro_arguments_are_reported() {
        for (program, message) in [
            (program().endpoint("execute", Rows::execute), "`execute` of `serve_plugin!` already"),
            (
                program().endpoint("a", Rows::execute).endpoint("a", Rows::execute),
                "`a` of `serve_plugin!` already exists",
            ),
            (program().endpoint("a b", Rows::execute), "invalid endpoint name `a b`"),
            (program().endpoint("", Rows::execute), "invalid endpoint name ``"),
            (program().config_schema("{"), "invalid JSON in `config_schema` of `serve_plugin!`"),
        ] {
            let error = capabilities_of(&program).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
