//! The start configuration: the JSON that a host starts the program with.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hotbay_protocol::{CONFIG_TYPE, ConfigEntry, SocketKind, StartConfig};
use serde_json::Value;

use super::duration;
use crate::Config;

/// Default idle timeout.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Parsed start configuration.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) id: String,
    pub(super) socket_kind: SocketKind,
    /// `None` if the program never stops because it is idle.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) config: Config,
}

impl Settings {
    /// Parses the start configuration of the plugin `name`.
    ///
    /// # Errors
    ///
    /// A message for people if the configuration is invalid.
    pub(super) fn parse(text: &str, name: &str) -> Result<Self, String> {
        let raw: StartConfig = serde_json::from_str(text)
            .map_err(|error| format!("invalid start configuration: {error}"))?;
        let id = raw.id.filter(|id| !id.is_empty()).unwrap_or_else(|| name.to_owned());
        if id.contains(['/', '\0']) {
            return Err(format!(
                "invalid `id` `{id}`: expected no `/`, since a file is named after it"
            ));
        }
        let idle_timeout =
            raw.idle_timeout.as_ref().map_or(Ok(DEFAULT_IDLE_TIMEOUT), parse_idle_timeout)?;
        let config = parse_config(raw.config_types.unwrap_or_default())?;
        Ok(Self {
            id,
            socket_kind: raw.socket_kind,
            idle_timeout: (!idle_timeout.is_zero()).then_some(idle_timeout),
            config,
        })
    }
}

fn parse_idle_timeout(value: &Value) -> Result<Duration, String> {
    let timeout = match value {
        Value::Null => Some(DEFAULT_IDLE_TIMEOUT),
        Value::Number(number) => number.as_u64().map(Duration::from_nanos),
        Value::String(text) => duration::parse(text),
        _ => None,
    };
    timeout.ok_or_else(|| {
        format!(
            "invalid `idleTimeout` {value}: expected nanoseconds or text such as \"5m\" (0: never)"
        )
    })
}

fn parse_config(entries: Vec<ConfigEntry>) -> Result<Config, String> {
    let Some(entry) = entries.into_iter().find(|entry| entry.name == CONFIG_TYPE) else {
        return Ok(Config::default());
    };
    let data = entry.data.unwrap_or_default();
    if data.is_empty() {
        return Ok(Config::default());
    }
    let bytes = STANDARD
        .decode(data)
        .map_err(|error| format!("invalid base64 in the data of `{CONFIG_TYPE}`: {error}"))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| format!("invalid JSON in the data of `{CONFIG_TYPE}`: {error}"))?;
    match value {
        Value::Object(object) => Ok(Config::from(object)),
        Value::Null => Ok(Config::default()),
        other => {
            Err(format!("invalid data of `{CONFIG_TYPE}`: expected a JSON object, found `{other}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Settings, String> {
        Settings::parse(&value.to_string(), "own")
    }

    #[test]
    fn missing_members_have_defaults() {
        let expected = Settings {
            id: "own".to_owned(),
            socket_kind: SocketKind::Unix,
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
            config: Config::default(),
        };
        for empty in [
            json!({}),
            json!({ "id": "", "configTypes": null, "idleTimeout": null }),
            json!({ "configTypes": [{ "type": "other/v1", "data": "!" }] }),
            json!({ "configTypes": [{ "type": "hotbay/v1", "data": "" }], "new": 1 }),
        ] {
            assert_eq!(parse(&empty).as_ref(), Ok(&expected), "{empty}");
        }
    }

    #[test]
    fn config_is_decoded_from_base64() {
        let data = STANDARD.encode(r#"{"a":1}"#);
        let settings = parse(&json!({
            "id": "rows",
            "type": "tcp",
            "idleTimeout": 5,
            "configTypes": [{ "type": "a" }, { "type": "hotbay/v1", "data": data }],
        }));
        let settings = settings.unwrap();
        assert_eq!((settings.id.as_str(), settings.socket_kind), ("rows", SocketKind::Tcp));
        assert_eq!(settings.idle_timeout, Some(Duration::from_nanos(5)));
        assert_eq!(settings.config.value(), &json!({ "a": 1 }));
    }

    #[test]
    fn idle_timeout_is_nanoseconds_or_text_and_zero_means_never() {
        let idle_timeout =
            |value: Value| parse(&json!({ "idleTimeout": value })).unwrap().idle_timeout;
        assert_eq!(idle_timeout(json!(0)), None);
        assert_eq!(idle_timeout(json!("0s")), None);
        assert_eq!(idle_timeout(json!("1h30m")), Some(Duration::from_secs(5400)));
        assert_eq!(idle_timeout(json!(1_000_000)), Some(Duration::from_millis(1)));
    }

    #[test]
    fn invalid_settings_are_reported() {
        let encoded = |text: &str| json!([{ "type": "hotbay/v1", "data": STANDARD.encode(text) }]);
        for (value, expected) in [
            (json!([]), "invalid start configuration"),
            (json!({ "type": "pipe" }), "expected `unix` or `tcp`"),
            (json!({ "id": "a/b" }), "expected no `/`"),
            (json!({ "idleTimeout": -1 }), "invalid `idleTimeout` -1"),
            (json!({ "idleTimeout": "soon" }), "such as \"5m\""),
            (json!({ "configTypes": [{ "type": "hotbay/v1", "data": "!" }] }), "invalid base64"),
            (json!({ "configTypes": encoded("{") }), "invalid JSON"),
            (json!({ "configTypes": encoded("[1]") }), "expected a JSON object"),
        ] {
            let error = parse(&value).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
