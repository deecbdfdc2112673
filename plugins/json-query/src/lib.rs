//! The plugin `json-query`: returns the values of a JSON document that match a JSONPath query.

#![forbid(unsafe_code)]

mod query;
#[cfg(test)]
mod tests;

use hotbay_plugin::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::query::{Query, QueryError};

/// Error code of an invalid query.
const UNPROCESSABLE: i32 = 422;

/// Runs JSONPath queries on JSON documents.
#[derive(Debug)]
pub struct JsonQuery {
    /// `None` if each call has its own query.
    query: Option<Query>,
    paths: bool,
}

/// The `config` of plugin.json.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    query: Option<String>,
    #[serde(default)]
    paths: bool,
}

/// Input of a call if the config has no query.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    query: String,
    document: Value,
}

impl Plugin for JsonQuery {
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        let plugin = Self::new(config)?;
        match &plugin.query {
            Some(query) => host.debug(&format!("uses the query `{query}`")),
            None => host.debug("uses the query of each call"),
        }
        Ok(plugin)
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let found = match &self.query {
            Some(query) => query.find(&read(&input, "a JSON document")?, self.paths),
            None => {
                let expected = "`{\"query\": …, \"document\": …}`";
                let request: Request = read(&input, expected)?;
                let query = Query::parse(&request.query).map_err(|error| plugin_error(&error))?;
                query.find(&request.document, self.paths)
            }
        };
        Output::json(&found)
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        Self::new(config).map(drop)
    }
}

impl JsonQuery {
    fn new(config: &Config) -> Result<Self, PluginError> {
        let settings: Settings = config.parse()?;
        let query = settings.query.as_deref().map(Query::parse).transpose();
        Ok(Self { query: query.map_err(|error| plugin_error(&error))?, paths: settings.paths })
    }
}

fn read<'a, T: Deserialize<'a>>(input: &Payload<'a>, expected: &str) -> Result<T, PluginError> {
    serde_json::from_slice(input.as_bytes()).map_err(|error| {
        let message = format!("invalid input: expected {expected}: {error}");
        PluginError::new(PluginError::BAD_INPUT, message)
            .with_details(json!({ "line": error.line(), "column": error.column() }))
    })
}

fn plugin_error(error: &QueryError) -> PluginError {
    PluginError::new(UNPROCESSABLE, error.to_string())
        .with_details(json!({ "query": error.query(), "position": error.position() }))
}
