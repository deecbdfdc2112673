//! The plugin `json-query`: a JSON document in, the values out that a JSONPath query finds.
//! It keeps nothing between calls.

#![forbid(unsafe_code)]

mod query;
#[cfg(test)]
mod tests;

use hotbay_plugin::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::query::{Mistake, Query};

/// The code of the error for a query that is none.
const UNPROCESSABLE: i32 = 422;

/// Answers queries on JSON.
#[derive(Debug)]
pub struct JsonQuery {
    /// None where each call brings its own.
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

/// What a call brings where the config has no query.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    query: String,
    document: Value,
}

impl Plugin for JsonQuery {
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        let plugin = Self::new(config)?;
        match &plugin.query {
            Some(query) => host.debug(&format!("answers `{query}`")),
            None => host.debug("answers the query of each call"),
        }
        Ok(plugin)
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let found = match &self.query {
            Some(query) => query.answer(&read(&input, "a document")?, self.paths),
            None => {
                let wanted = "`{\"query\": …, \"document\": …}`, as the config has no query";
                let asked: Asked = read(&input, wanted)?;
                let query = Query::parse(&asked.query).map_err(|mistake| told(&mistake))?;
                query.answer(&asked.document, self.paths)
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
        Ok(Self { query: query.map_err(|mistake| told(&mistake))?, paths: settings.paths })
    }
}

fn read<'a, T: Deserialize<'a>>(input: &Payload<'a>, wanted: &str) -> Result<T, PluginError> {
    serde_json::from_slice(input.as_bytes()).map_err(|error| {
        let message = format!("the input is no JSON that is wanted: {error}; wanted {wanted}");
        PluginError::new(PluginError::BAD_INPUT, message)
            .with_details(json!({ "line": error.line(), "column": error.column() }))
    })
}

fn told(mistake: &Mistake) -> PluginError {
    PluginError::new(UNPROCESSABLE, mistake.to_string())
        .with_details(json!({ "query": mistake.query(), "position": mistake.position() }))
}
