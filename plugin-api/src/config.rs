//! The configuration of a plugin instance: a JSON object that the host has validated.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::PluginError;

/// The `config` object of a plugin's manifest.
///
/// ```
/// use hotbay_plugin::Config;
/// use serde::Deserialize;
/// use serde_json::json;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Settings {
///     limit: u32,
/// }
///
/// let config = Config::from(json!({ "limit": 3 }));
/// assert_eq!(config.get("limit"), Some(&json!(3)));
/// assert_eq!(config.parse::<Settings>()?.limit, 3);
///
/// let error = Config::from(json!({ "limit": "x" })).parse::<Settings>().err().unwrap();
/// assert_eq!(error.code(), 400);
/// # Ok::<(), hotbay_plugin::PluginError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Config(Value);

impl Config {
    /// Deserializes the whole object into `T`.
    ///
    /// # Errors
    ///
    /// Code 400 if the object does not match `T`; the message names the mismatch.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PluginError> {
        T::deserialize(&self.0).map_err(|error| {
            PluginError::new(PluginError::BAD_INPUT, format!("invalid config: {error}"))
        })
    }

    /// Returns a member of the object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Returns the whole object.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

impl Default for Config {
    fn default() -> Self {
        Self(Value::Object(Map::new()))
    }
}

impl From<Map<String, Value>> for Config {
    fn from(object: Map<String, Value>) -> Self {
        Self(Value::Object(object))
    }
}

impl From<Value> for Config {
    /// Converts an object; any other value becomes an empty object.
    fn from(value: Value) -> Self {
        if value.is_object() { Self(value) } else { Self::default() }
    }
}
