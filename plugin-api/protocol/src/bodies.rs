//! JSON bodies, as they are written and parsed. Readers ignore unknown members.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The capabilities that a program of this protocol prints. Hosts parse them with the path of each
/// invalid member, so they do not use this type.
#[derive(Debug, Serialize)]
pub struct Capabilities<'a> {
    /// The object that marks this protocol.
    pub hotbay: OwnCapabilities<'a>,
}

/// The content of `hotbay` in the capabilities.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnCapabilities<'a> {
    /// How the program can read its start configuration: `env`, `file`.
    pub config: &'a [&'a str],
    /// The JSON Schema of the plugin's config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<Value>,
    /// The contracts that it serves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contracts: Vec<ContractBody>,
    /// The names of the endpoints.
    pub endpoints: Vec<&'a str>,
    /// The JSON Schema of inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Value>,
    /// The name of the plugin.
    pub name: &'a str,
    /// The version of the protocol.
    pub protocol: u32,
    /// The protocols to which a connection can be upgraded.
    pub upgrades: &'a [&'a str],
    /// The version of the plugin.
    pub version: &'a str,
}

/// A contract that a program serves.
#[derive(Debug, Serialize)]
pub struct ContractBody {
    /// Whether its methods accept arguments as postcard.
    pub postcard: bool,
    /// The text of the contract.
    pub text: String,
}

/// A program's request to check that a contract is served.
#[derive(Debug, Serialize, Deserialize)]
pub struct ContractCheck<'a> {
    /// The plugin that is to serve it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Cow<'a, str>>,
    /// The text of the contract, as the program knows it.
    #[serde(borrow)]
    pub text: Cow<'a, str>,
}

/// The configuration with which a host starts a program.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartConfig {
    /// Configs by their types.
    #[serde(default)]
    pub config_types: Option<Vec<ConfigEntry>>,
    /// The name of the plugin in the host.
    pub id: Option<String>,
    /// Nanoseconds without calls after which the program exits. Programs may accept other forms.
    pub idle_timeout: Option<Value>,
    /// The kind of socket that the program listens on.
    #[serde(rename = "type", default)]
    pub socket_kind: SocketKind,
}

/// A config of one type.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// The config as base64 of JSON.
    #[serde(default)]
    pub data: Option<String>,
    /// The type.
    #[serde(rename = "type")]
    pub name: String,
}

/// The kind of socket that a program listens on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SocketKind {
    /// A Unix socket.
    #[default]
    Unix,
    /// A TCP port on the loopback interface.
    Tcp,
}

/// The body of a response that is not a success: an error of the plugin, a fault, or a rejected
/// request.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody<'a> {
    /// The code of the plugin's error; 500 for a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// Details of the plugin's error, as JSON text: parsed, it may take a hundred times as much memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<RawValue>>,
    /// A panic or an uncaught exception.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultBody<'a>>,
    /// Advice, in responses of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<Cow<'a, str>>,
    /// The class of an error, in responses of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Cow<'a, str>>,
    /// A message for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Cow<'a, str>>,
    /// Whether the same call may succeed later.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
    /// The status code, for a request that does not reach the plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<i64>,
}

impl<'a> ErrorBody<'a> {
    /// Returns the body for a request that does not reach the plugin.
    pub fn rejected(status_code: u16, message: impl Into<Cow<'a, str>>) -> Self {
        let (message, status_code) = (Some(message.into()), Some(status_code.into()));
        Self { message, status_code, ..Self::default() }
    }
}

/// A panic or an uncaught exception.
#[derive(Debug, Serialize, Deserialize)]
pub struct FaultBody<'a> {
    /// The place in the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Cow<'a, str>>,
    /// The message.
    pub message: Cow<'a, str>,
}

/// A record that a program logs by the host's services.
#[derive(Debug, Serialize, Deserialize)]
pub struct LogRecord<'a> {
    /// An object, or `""`.
    #[serde(default)]
    pub fields: Value,
    /// The source file.
    #[serde(borrow, default)]
    pub file: Cow<'a, str>,
    /// From 1 (`error`) to 5 (`trace`).
    pub level: u32,
    /// The line in the source file.
    #[serde(default)]
    pub line: u32,
    /// The message.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// The name of the source of the record.
    #[serde(borrow, default)]
    pub target: Cow<'a, str>,
}

/// A panic outside of calls, as a program reports it to the host's services.
#[derive(Debug, Serialize, Deserialize)]
pub struct ThreadPanic<'a> {
    /// The place in the source.
    #[serde(borrow, default)]
    pub location: Cow<'a, str>,
    /// The message.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
}

/// Parses a value that may be missing, but not `null`.
fn some<'de, D: Deserializer<'de>>(value: D) -> Result<Option<bool>, D::Error> {
    bool::deserialize(value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn error_body_has_only_given_members() {
        let rejected = ErrorBody::rejected(404, "no");
        assert_eq!(json!(rejected), json!({ "message": "no", "statusCode": 404 }));
        let fault = FaultBody { location: None, message: "oh".into() };
        let body = ErrorBody { code: Some(500), fault: Some(fault), ..ErrorBody::default() };
        assert_eq!(json!(body), json!({ "code": 500, "fault": { "message": "oh" } }));
        for (text, is_valid) in [("{}", true), (r#"{"retryable":null}"#, false), ("[7]", false)] {
            assert_eq!(serde_json::from_str::<ErrorBody<'_>>(text).is_ok(), is_valid, "{text}");
        }
    }

    #[test]
    fn start_config_is_parsed_back() {
        let entry = ConfigEntry { data: Some("e30=".to_owned()), name: "a/v1".to_owned() };
        let config = StartConfig {
            config_types: Some(vec![entry]),
            id: Some("echo".to_owned()),
            idle_timeout: Some(5.into()),
            socket_kind: SocketKind::Tcp,
        };
        let text = serde_json::to_string(&config).unwrap();
        let expected = r#"{"configTypes":[{"data":"e30=","type":"a/v1"}],"id":"echo","idleTimeout":5,"type":"tcp"}"#;
        assert_eq!(text, expected);
        let parsed: StartConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed.config_types.unwrap()[0].name, "a/v1");
        assert_eq!(parsed.socket_kind, SocketKind::Tcp);
    }

    #[test]
    fn log_record_needs_only_level_and_message() {
        let record: LogRecord<'_> = serde_json::from_str(r#"{"level":3,"message":"hi"}"#).unwrap();
        assert!(matches!(record.message, Cow::Borrowed("hi")));
        assert!(record.fields.is_null() && record.target.is_empty() && record.line == 0);
        assert!(serde_json::from_str::<LogRecord<'_>>(r#"{"message":"hi"}"#).is_err());
    }
}
