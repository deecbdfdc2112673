//! The start configuration: the JSON that a host starts the program with.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::duration;
use crate::Config;

/// Default idle timeout.
const IDLE_AFTER: Duration = Duration::from_secs(60 * 60);

/// Type of the entry with the plugin's own configuration.
const OURS: &str = "hotbay/v1";

/// Parsed start configuration.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) id: String,
    pub(super) way: Way,
    /// `None`: the program never stops on its own.
    pub(super) idle_after: Option<Duration>,
    pub(super) config: Config,
}

/// The kind of socket that the host connects to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    #[default]
    Unix,
    Tcp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    id: Option<String>,
    #[serde(rename = "type", default)]
    way: Way,
    idle_timeout: Option<Value>,
    #[serde(default)]
    config_types: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    name: String,
    #[serde(default)]
    data: Option<String>,
}

impl Settings {
    /// Parses the start configuration of the plugin `name`.
    ///
    /// # Errors
    ///
    /// A message for people if the configuration is invalid.
    pub(super) fn read(text: &str, name: &str) -> Result<Self, String> {
        let raw: Raw = serde_json::from_str(text)
            .map_err(|error| format!("invalid start configuration: {error}"))?;
        let id = raw.id.filter(|id| !id.is_empty()).unwrap_or_else(|| name.to_owned());
        if id.contains(['/', '\0']) {
            return Err(format!(
                "invalid `id` `{id}`: expected no `/`, since a file is named after it"
            ));
        }
        let idle_after = raw.idle_timeout.as_ref().map_or(Ok(IDLE_AFTER), idle_timeout)?;
        let config = config(raw.config_types.unwrap_or_default())?;
        Ok(Self {
            id,
            way: raw.way,
            idle_after: (!idle_after.is_zero()).then_some(idle_after),
            config,
        })
    }
}

fn idle_timeout(value: &Value) -> Result<Duration, String> {
    let read = match value {
        Value::Null => Some(IDLE_AFTER),
        Value::Number(number) => number.as_u64().map(Duration::from_nanos),
        Value::String(text) => duration::read(text),
        _ => None,
    };
    read.ok_or_else(|| {
        format!(
            "invalid `idleTimeout` {value}: expected nanoseconds or text such as \"5m\" (0: never)"
        )
    })
}

fn config(entries: Vec<Entry>) -> Result<Config, String> {
    let Some(entry) = entries.into_iter().find(|entry| entry.name == OURS) else {
        return Ok(Config::default());
    };
    let data = entry.data.unwrap_or_default();
    if data.is_empty() {
        return Ok(Config::default());
    }
    let bytes = STANDARD
        .decode(data)
        .map_err(|error| format!("invalid base64 in the data of `{OURS}`: {error}"))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| format!("invalid JSON in the data of `{OURS}`: {error}"))?;
    match value {
        Value::Object(object) => Ok(Config::from(object)),
        Value::Null => Ok(Config::default()),
        other => Err(format!("invalid data of `{OURS}`: expected a JSON object, found `{other}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Result<Settings, String> {
        Settings::read(&value.to_string(), "own")
    }

    #[test]
    fn missing_members_have_defaults() {
        let wanted = Settings {
            id: "own".to_owned(),
            way: Way::Unix,
            idle_after: Some(IDLE_AFTER),
            config: Config::default(),
        };
        for empty in [
            json!({}),
            json!({ "id": "", "configTypes": null, "idleTimeout": null }),
            json!({ "configTypes": [{ "type": "other/v1", "data": "!" }] }),
            json!({ "configTypes": [{ "type": "hotbay/v1", "data": "" }], "new": 1 }),
        ] {
            assert_eq!(read(&empty).as_ref(), Ok(&wanted), "{empty}");
        }
    }

    #[test]
    fn config_is_decoded_from_base64() {
        let data = STANDARD.encode(r#"{"a":1}"#);
        let settings = read(&json!({
            "id": "rows",
            "type": "tcp",
            "idleTimeout": 5,
            "configTypes": [{ "type": "a" }, { "type": "hotbay/v1", "data": data }],
        }));
        let settings = settings.unwrap();
        assert_eq!((settings.id.as_str(), settings.way), ("rows", Way::Tcp));
        assert_eq!(settings.idle_after, Some(Duration::from_nanos(5)));
        assert_eq!(settings.config.value(), &json!({ "a": 1 }));
    }

    #[test]
    fn idle_timeout_is_nanoseconds_or_text_and_zero_means_never() {
        let idle_after = |value: Value| read(&json!({ "idleTimeout": value })).unwrap().idle_after;
        assert_eq!(idle_after(json!(0)), None);
        assert_eq!(idle_after(json!("0s")), None);
        assert_eq!(idle_after(json!("1h30m")), Some(Duration::from_secs(5400)));
        assert_eq!(idle_after(json!(1_000_000)), Some(Duration::from_millis(1)));
    }

    #[test]
    fn invalid_settings_are_reported() {
        let encoded = |text: &str| json!([{ "type": "hotbay/v1", "data": STANDARD.encode(text) }]);
        for (value, says) in [
            (json!([]), "invalid start configuration"),
            (json!({ "type": "pipe" }), "expected `unix` or `tcp`"),
            (json!({ "id": "a/b" }), "expected no `/`"),
            (json!({ "idleTimeout": -1 }), "invalid `idleTimeout` -1"),
            (json!({ "idleTimeout": "soon" }), "such as \"5m\""),
            (json!({ "configTypes": [{ "type": "hotbay/v1", "data": "!" }] }), "invalid base64"),
            (json!({ "configTypes": encoded("{") }), "invalid JSON"),
            (json!({ "configTypes": encoded("[1]") }), "expected a JSON object"),
        ] {
            let error = read(&value).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
