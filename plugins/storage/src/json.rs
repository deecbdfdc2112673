//! Requests in JSON, such as `{"save": {"key": "a", "value": "b"}}`. Keys and values are text, or
//! `{"base64": "AAE="}` for any bytes; in responses, they are text if they are UTF-8.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hotbay_plugin::{Output, PluginError};
use serde::{Deserialize, Serialize};
use storage_contract::{Change, Entry, KeyValue, Page};

/// A request, with one method of the contract.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Request {
    Save(Save),
    Load(Load),
    Delete(Delete),
    List(List),
    Batch(Vec<BatchChange>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Save {
    key: Bytes,
    value: Bytes,
    expected: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Load {
    key: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delete {
    key: Bytes,
    expected: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    #[serde(default)]
    prefix: Bytes,
    #[serde(default)]
    after: Bytes,
    #[serde(default = "default_limit")]
    limit: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BatchChange {
    Save(Save),
    Delete(Delete),
}

fn default_limit() -> u32 {
    100
}

/// The response of `load`.
#[derive(Serialize)]
struct Loaded {
    value: Bytes,
    revision: u64,
}

/// The response of `list`.
#[derive(Serialize)]
struct Listed {
    keys: Vec<Bytes>,
    has_more: bool,
}

/// The response of `save`.
#[derive(Serialize)]
struct Saved {
    revision: u64,
}

/// The response of `batch`: 0 for a removal.
#[derive(Serialize)]
struct Changed {
    revisions: Vec<u64>,
}

/// Runs a request.
pub(crate) fn run(store: &impl KeyValue, request: Request) -> Result<Output, PluginError> {
    match request {
        Request::Save(Save { key, value, expected }) => {
            let revision = store.save(&key.0, &value.0, expected)?;
            Output::json(&Saved { revision })
        }
        Request::Load(Load { key }) => {
            let Entry { value, revision } = store.load(&key.0)?;
            Output::json(&Loaded { value: Bytes(value), revision })
        }
        Request::Delete(Delete { key, expected }) => {
            store.delete(&key.0, expected)?;
            Output::json(&())
        }
        Request::List(List { prefix, after, limit }) => {
            let Page { keys, has_more } = store.list(&prefix.0, &after.0, limit)?;
            Output::json(&Listed { keys: keys.into_iter().map(Bytes).collect(), has_more })
        }
        Request::Batch(changes) => {
            let changes = changes.into_iter().map(Change::from).collect();
            Output::json(&Changed { revisions: store.batch(changes)? })
        }
    }
}

impl From<BatchChange> for Change {
    fn from(change: BatchChange) -> Self {
        match change {
            BatchChange::Save(Save { key, value, expected }) => {
                Self::Save { key: key.0, value: value.0, expected }
            }
            BatchChange::Delete(Delete { key, expected }) => Self::Delete { key: key.0, expected },
        }
    }
}

/// Bytes as text or base64.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(try_from = "TextOrBase64", into = "TextOrBase64")]
struct Bytes(Vec<u8>);

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum TextOrBase64 {
    Text(String),
    Base64 { base64: String },
}

impl TryFrom<TextOrBase64> for Bytes {
    type Error = base64::DecodeError;

    fn try_from(value: TextOrBase64) -> Result<Self, Self::Error> {
        Ok(Self(match value {
            TextOrBase64::Text(text) => text.into_bytes(),
            TextOrBase64::Base64 { base64 } => STANDARD.decode(base64)?,
        }))
    }
}

impl From<Bytes> for TextOrBase64 {
    fn from(bytes: Bytes) -> Self {
        match String::from_utf8(bytes.0) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Base64 { base64: STANDARD.encode(error.as_bytes()) },
        }
    }
}
