//! What a host starts the program with: the start configuration, which is JSON, and the token that
//! every request has to carry.

use std::fmt;
use std::hint::black_box;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hotbay_protocol::{CONFIG_TYPE, ConfigEntry, SocketKind, StartConfig, header};
use hyper::header::HeaderName;
use serde_json::Value;

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
        Value::String(text) => parse_duration(text),
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

/// The header that carries the token.
pub(super) static TOKEN: HeaderName = HeaderName::from_static(header::TOKEN);

/// The token of the host.
pub(super) struct Token(Box<[u8]>);

impl Token {
    /// Reads the token from the value of its environment variable; `None` if it is not set.
    ///
    /// # Errors
    ///
    /// A message for people if the value is not a valid token.
    pub(super) fn from_env(value: Option<&std::ffi::OsStr>) -> Result<Option<Self>, String> {
        let Some(text) = value else { return Ok(None) };
        let is_valid =
            |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.to_str().filter(is_valid) {
            Some(text) => Ok(Some(Self(text.as_bytes().into()))),
            None => Err("invalid HOTBAY_TOKEN: expected visible ASCII characters".to_owned()),
        }
    }

    /// Compares bytes with the token in constant time.
    pub(super) fn matches(&self, given: &[u8]) -> bool {
        if given.len() != self.0.len() {
            return false;
        }
        let pairs = self.0.iter().zip(given);
        pairs.fold(0, |differs, (expected, given)| black_box(differs | (expected ^ given))) == 0
    }

    /// Returns the token as text.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Units in nanoseconds. A unit that starts with another one precedes it.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Parses a duration in Go's notation, such as `1h30m` or `300ms`; returns `None` if the text is
/// invalid.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|byte: char| !byte.is_ascii_digit() && byte != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let (name, nanoseconds) = UNITS.iter().find(|(name, _)| rest.starts_with(name))?;
        rest = &rest[name.len()..];
        let term = Duration::try_from_secs_f64(number * nanoseconds / 1e9).ok()?;
        total = total.checked_add(term)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use serde_json::json;

    use super::*;

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

    #[test]
    fn token_matches_only_identical_bytes() {
        let token = Token::from_env(Some(OsStr::new("abc123"))).unwrap().unwrap();
        assert!(token.matches(b"abc123"));
        for other in [&b""[..], b"abc12", b"abc1234", b"bbc123", b"abc124"] {
            assert!(!token.matches(other));
        }
        assert_eq!(format!("{token:?}"), "Token(…)");
    }

    #[test]
    fn empty_or_invalid_token_is_an_error() {
        assert!(Token::from_env(None).unwrap().is_none());
        assert!(Token::from_env(Some(OsStr::new(""))).unwrap_err().contains("HOTBAY_TOKEN"));
        assert!(Token::from_env(Some(OsStr::new("a b"))).is_err());
    }

    #[test]
    fn durations_are_parsed_in_go_notation() {
        for (text, expected_ns) in [
            ("0", 0),
            ("0s", 0),
            ("5m", 300_000_000_000),
            ("5m0s", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            ("300ms", 300_000_000),
            ("7µs", 7_000),
            ("7us", 7_000),
            ("9ns", 9),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_nanos(expected_ns)), "{text}");
        }
        for text in
            ["", "5", "m", "-5m", "5 m", "5d", "5m3", ".", ".s", "1e9s", "999999999999999999999h"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
