//! Parses the capabilities of a program, in our protocol and in the two older dialects. Pure; does
//! not decide whether the host can use them.

mod fields;
mod ours;
mod peers;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;

use serde_json::{Deserializer, Value};

use fields::{Field, quoted};

/// The version of the protocol that this host speaks.
pub(crate) const PROTOCOL: u32 = 1;

/// The longest output of the command `capabilities`.
pub(crate) const MAX_CAPABILITIES_BYTES: usize = 1 << 20;

/// The largest number of types, and also of aliases, config types and endpoints.
pub(crate) const MAX_TYPES: usize = 1_024;

/// The longest name in the capabilities.
pub(crate) const MAX_NAME_BYTES: usize = 256;

/// Characters shown of output that is not JSON.
const MAX_NOISE_CHARS: usize = 80;

/// The protocol that a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Our own: endpoints of the plugin itself, and optionally types.
    Ours {
        /// The version of the protocol, always one that this host supports.
        protocol: u32,
    },
    /// A list of capabilities, each with types and aliases.
    Newer,
    /// Types by kind of plugin.
    Older,
}

/// A type that a program serves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offered {
    /// The capability or the kind of plugin to which it belongs.
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    /// A JSON Schema: an object or a boolean.
    pub(crate) schema: Option<Value>,
}

/// The capabilities of a program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Capabilities {
    pub(crate) dialect: Dialect,
    pub(crate) types: Vec<Offered>,
    pub(crate) config_types: Vec<String>,
    /// Names without a leading `/`; empty in the older dialects, which define fixed endpoints.
    pub(crate) endpoints: BTreeSet<String>,
    /// Whether the config may be passed in the environment, hidden from other users.
    pub(crate) reads_config_from_env: bool,
    /// Whether the config may be passed in a file, which has no length limit.
    pub(crate) reads_config_from_file: bool,
    pub(crate) config_schema: Option<Value>,
    pub(crate) input_schema: Option<Value>,
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
}

/// Invalid capabilities.
///
/// `Display` names the field, the value found and the expected one:
/// `` `hotbay.protocol` is 2; expected 1, the version that this host speaks ``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CapabilitiesError {
    /// The path of the field, such as `types.repository[0].type`; empty for the whole value.
    path: String,
    /// A sentence without its subject.
    found: String,
    expected: String,
    /// Advice on how to fix it.
    pub(super) hint: Option<&'static str>,
}

impl Capabilities {
    /// Parses the output of the command `capabilities`.
    ///
    /// Unknown fields are ignored, so that a program can offer more to newer hosts.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, CapabilitiesError> {
        let value = only_json(bytes)?;
        let root = Field::root(&value);
        let expected = "an object with `hotbay`, `capabilities` or `types`";
        let object = root.object(expected)?;
        let has = |name: &str| object.contains_key(name);
        match () {
            () if has("hotbay") => ours::read(&root),
            // A program that supports both older dialects is used in the newer one.
            () if has("capabilities") => peers::newer(&root),
            () if has("types") => peers::older(&root),
            () => Err(root.wrong(&format!("has {}", keys_of(object)), expected)),
        }
    }

    /// Returns empty capabilities of a dialect.
    fn empty(dialect: Dialect) -> Self {
        Self {
            dialect,
            types: Vec::new(),
            config_types: Vec::new(),
            endpoints: BTreeSet::new(),
            reads_config_from_env: false,
            reads_config_from_file: false,
            config_schema: None,
            input_schema: None,
            name: None,
            version: None,
        }
    }
}

/// Parses the single JSON value in `bytes`; only white space may surround it.
fn only_json(bytes: &[u8]) -> Result<Value, CapabilitiesError> {
    let wrong = |found: String, expected: &str| CapabilitiesError {
        path: String::new(),
        found,
        expected: expected.to_owned(),
        hint: None,
    };
    if bytes.len() > MAX_CAPABILITIES_BYTES {
        let found = format!("is {} bytes long", bytes.len());
        return Err(wrong(found, &format!("at most {MAX_CAPABILITIES_BYTES}")));
    }
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Err(wrong("is empty".to_owned(), "a JSON object"));
    }
    let noise = |place: &str, bytes: &[u8]| {
        let text = quoted(&String::from_utf8_lossy(bytes), MAX_NOISE_CHARS);
        let error = wrong(format!("has text {place} the JSON: {text}"), "only JSON");
        CapabilitiesError { hint: Some("write logs to stderr"), ..error }
    };
    let mut values = Deserializer::from_slice(bytes).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => {
            let rest = bytes[values.byte_offset()..].trim_ascii_start();
            match value {
                // A log line may begin with a number or a quoted text.
                _ if rest.is_empty() => Ok(value),
                Value::Object(_) => Err(noise("after", rest)),
                _ => Err(noise("before", bytes)),
            }
        }
        Some(Err(error)) if bytes.starts_with(b"{") => {
            Err(wrong(format!("is not JSON: {error}"), "a JSON object"))
        }
        _ => Err(noise("before", bytes)),
    }
}

fn keys_of(object: &serde_json::Map<String, Value>) -> String {
    let mut keys: Vec<String> = object.keys().take(5).map(|key| quoted(key, 40)).collect();
    if object.len() > keys.len() {
        keys.push("…".to_owned());
    }
    if keys.is_empty() { "no fields".to_owned() } else { format!("only {}", keys.join(", ")) }
}

impl fmt::Display for CapabilitiesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, found, expected, .. } = self;
        match &**path {
            "" => write!(f, "the output of the command `capabilities` ")?,
            path => write!(f, "`{path}` ")?,
        }
        write!(f, "{found}; expected {expected}")
    }
}

impl Error for CapabilitiesError {}
