//! The configuration of one instance of a plugin: a JSON object, checked before it arrives.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::PluginError;

/// The `config` object of a plugin's manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Config(Value);

impl Config {
    /// Reads the whole object as the author's own type.
    ///
    /// # Errors
    ///
    /// Code 400, with the place where the object does not fit the type.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, PluginError> {
        T::deserialize(&self.0).map_err(|error| {
            PluginError::new(PluginError::BAD_INPUT, format!("config does not fit: {error}"))
        })
    }

    /// One member of the object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// The object itself.
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
    /// Anything but an object becomes an empty one.
    fn from(value: Value) -> Self {
        if value.is_object() { Self(value) } else { Self::default() }
    }
}
