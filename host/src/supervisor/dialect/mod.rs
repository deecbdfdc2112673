//! What a program says it can do, in our protocol and in the two older dialects: text in, values
//! out. Whether the host can use what is offered is not asked here.

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

/// How much a program may print about what it can do.
pub(crate) const CAPABILITIES_BYTES_MAX: usize = 1 << 20;

/// Most types in one answer; as many aliases, config types and endpoints.
pub(crate) const TYPES_MAX: usize = 1_024;

/// The longest name of anything in an answer.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// How much of what is not JSON is shown.
const NOISE_CHARS_MAX: usize = 80;

/// Which conversation a program leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Ours: endpoints of the plugin itself, and maybe types.
    Ours {
        /// The version of the protocol, never one that this host does not speak.
        protocol: u32,
    },
    /// A list of capabilities, each with types and their aliases.
    Newer,
    /// Types, by the kind of plugin.
    Older,
}

/// A type that a program serves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Offered {
    /// The capability or the kind of plugin that it belongs to.
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    /// A JSON Schema: an object or a boolean.
    pub(crate) schema: Option<Value>,
}

/// What a program says it can do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Capabilities {
    pub(crate) dialect: Dialect,
    pub(crate) types: Vec<Offered>,
    pub(crate) config_types: Vec<String>,
    /// Without a leading `/`; empty in the two older dialects, where contracts fix them.
    pub(crate) endpoints: BTreeSet<String>,
    /// Whether the config may travel in the environment, where no other user sees it.
    pub(crate) reads_config_from_env: bool,
    /// Whether the config may be in a file, where no limit of the system cuts it off.
    pub(crate) reads_config_from_file: bool,
    pub(crate) config_schema: Option<Value>,
    pub(crate) input_schema: Option<Value>,
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
}

/// Capabilities that cannot be used.
///
/// `Display` names the field, what was found and what was wanted:
/// `` `hotbay.protocol` is 2; wanted 1, the version that this host speaks ``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrongCapabilities {
    /// The path of the field, such as `types.repository[0].type`; empty for the whole.
    path: String,
    /// Beginning with a verb.
    found: String,
    wanted: String,
}

impl Capabilities {
    /// Reads what the command `capabilities` printed.
    ///
    /// Fields that nobody knows are passed over, so that a program can say more to newer hosts.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, WrongCapabilities> {
        let value = only_json(bytes)?;
        let root = Field::root(&value);
        let wanted = "an object with `hotbay`, `capabilities` or `types`";
        let object = root.object(wanted)?;
        let is_there = |name: &str| object.contains_key(name);
        match () {
            () if is_there("hotbay") => ours::read(&root),
            // A program that serves hosts of both ages is spoken to in the newer way.
            () if is_there("capabilities") => peers::newer(&root),
            () if is_there("types") => peers::older(&root),
            () => Err(root.wrong(&format!("has {}", keys_of(object)), wanted)),
        }
    }

    /// Nothing but the dialect.
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

/// The one JSON value in `bytes`, with white space around it and nothing else.
fn only_json(bytes: &[u8]) -> Result<Value, WrongCapabilities> {
    let wrong = |found: String, wanted: &str| WrongCapabilities {
        path: String::new(),
        found,
        wanted: wanted.to_owned(),
    };
    if bytes.len() > CAPABILITIES_BYTES_MAX {
        let found = format!("is {} bytes long", bytes.len());
        return Err(wrong(found, &format!("at most {CAPABILITIES_BYTES_MAX}")));
    }
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Err(wrong("is empty".to_owned(), "a JSON object"));
    }
    let noise = |place: &str, bytes: &[u8]| {
        let text = quoted(&String::from_utf8_lossy(bytes), NOISE_CHARS_MAX);
        wrong(format!("has noise {place} the JSON: {text}"), "JSON only; logs go to stderr")
    };
    let mut values = Deserializer::from_slice(bytes).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => {
            let rest = bytes[values.byte_offset()..].trim_ascii_start();
            match value {
                // A log line may begin with a number or in quotes.
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

impl fmt::Display for WrongCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, found, wanted } = self;
        match &**path {
            "" => write!(f, "what the command `capabilities` printed ")?,
            path => write!(f, "`{path}` ")?,
        }
        write!(f, "{found}; wanted {wanted}")
    }
}

impl Error for WrongCapabilities {}
