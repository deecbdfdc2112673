//! Parses the capabilities of a program, in our protocol and in the two older dialects. Pure; does
//! not decide whether the host can use them.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig};
use hotbay_plugin::contract::ContractText;
use hotbay_protocol::{MAX_CAPABILITIES_BYTES, VERSION, endpoint, frame};
use serde_json::{Deserializer, Map, Value};

use crate::http::is_endpoint;

#[cfg(test)]
mod tests;

/// The largest number of types, and also of aliases, config types and endpoints.
const MAX_TYPES: usize = 1_024;

/// The longest name in the capabilities.
const MAX_NAME_BYTES: usize = 256;

/// Characters shown of output that is not JSON.
const MAX_NOISE_CHARS: usize = 80;

/// The protocol that a program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
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
pub struct Offered {
    /// The capability or the kind of plugin to which it belongs.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// A JSON Schema: an object or a boolean.
    pub schema: Option<Value>,
}

/// A typed contract that a program serves.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedContract {
    /// Its methods.
    pub text: ContractText,
    /// Whether the methods accept arguments as postcard, not only as JSON.
    pub accepts_postcard: bool,
}

/// The capabilities of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// The protocol that it speaks.
    pub dialect: Dialect,
    /// The types that it serves.
    pub types: Vec<Offered>,
    /// The types of configs that it accepts.
    pub config_types: Vec<String>,
    /// The typed contracts that it serves.
    pub contracts: Vec<ServedContract>,
    /// Names without a leading `/`; empty in the older dialects, which define fixed endpoints.
    pub endpoints: BTreeSet<String>,
    /// Whether it serves calls in frames.
    pub has_frames: bool,
    /// Whether the config may be passed in the environment, hidden from other users.
    pub reads_config_from_env: bool,
    /// Whether the config may be passed in a file, which has no length limit.
    pub reads_config_from_file: bool,
    /// The JSON Schema of its config.
    pub config_schema: Option<Value>,
    /// The JSON Schema of inputs.
    pub input_schema: Option<Value>,
    /// The name of the plugin.
    pub name: Option<String>,
    /// The version of the plugin.
    pub version: Option<String>,
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
    pub(crate) hint: Option<&'static str>,
}

impl Capabilities {
    /// Returns whether the program speaks our own protocol.
    pub fn is_ours(&self) -> bool {
        matches!(self.dialect, Dialect::Ours { .. })
    }

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
            () if has("hotbay") => ours(&root),
            // A program that supports both older dialects is used in the newer one.
            () if has("capabilities") => newer(&root),
            () if has("types") => older(&root),
            () => Err(root.wrong(&format!("has {}", keys_of(object)), expected)),
        }
    }

    /// Returns empty capabilities of a dialect.
    fn empty(dialect: Dialect) -> Self {
        Self {
            dialect,
            types: Vec::new(),
            config_types: Vec::new(),
            contracts: Vec::new(),
            endpoints: BTreeSet::new(),
            has_frames: false,
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
    let noise = |what: &str, bytes: &[u8]| {
        let text = quoted(&String::from_utf8_lossy(bytes), MAX_NOISE_CHARS);
        let error = wrong(format!("has text {what}: {text}"), "only JSON");
        CapabilitiesError { hint: Some("write logs to stderr"), ..error }
    };
    let mut values = Deserializer::from_slice(bytes).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => {
            let rest = bytes[values.byte_offset()..].trim_ascii_start();
            match value {
                // A log line may begin with a number or a quoted text.
                _ if rest.is_empty() => Ok(value),
                Value::Object(_) => Err(noise("after the JSON", rest)),
                _ => Err(noise("that is not JSON", bytes)),
            }
        }
        Some(Err(error)) if bytes.starts_with(b"{") => {
            Err(wrong(format!("is not JSON: {error}"), "a JSON object"))
        }
        _ => Err(noise("that is not JSON", bytes)),
    }
}

fn keys_of(object: &Map<String, Value>) -> String {
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

/// Parses `{"hotbay":{"protocol":1,"endpoints":["execute",…],…},"types":{…}}`.
fn ours(root: &Field<'_>) -> Result<Capabilities, CapabilitiesError> {
    let hotbay = root.field("hotbay");
    hotbay.object("an object with `protocol` and `endpoints`")?;
    // First, since a newer protocol may change the meaning of every other field.
    let protocol = protocol(&hotbay.field("protocol"))?;
    let channels = hotbay.field("config").names("a list such as [\"env\", \"file\"]")?;
    let upgrades = hotbay.field("upgrades").names("a list of protocols")?;
    Ok(Capabilities {
        dialect: Dialect::Ours { protocol },
        types: types_by_group(&root.field("types"))?,
        config_types: root.field("configTypes").names("a list of config types")?,
        contracts: contracts(&hotbay.field("contracts"))?,
        endpoints: endpoints(&hotbay.field("endpoints"))?,
        has_frames: upgrades.iter().any(|upgrade| upgrade == frame::UPGRADE),
        reads_config_from_env: channels.iter().any(|channel| channel == "env"),
        reads_config_from_file: channels.iter().any(|channel| channel == "file"),
        config_schema: read_schema(&hotbay.field("configSchema"))?,
        input_schema: read_schema(&hotbay.field("inputSchema"))?,
        name: hotbay.field("name").name_if_given("the name of the plugin")?,
        version: hotbay.field("version").name_if_given("the version of the plugin, a string")?,
    })
}

fn protocol(field: &Field<'_>) -> Result<u32, CapabilitiesError> {
    let number = field.given().and_then(Value::as_u64);
    if number == Some(VERSION.into()) {
        return Ok(VERSION);
    }
    let is_newer = number.is_some_and(|number| number > VERSION.into());
    let wrong = field.wrong_type(&format!("{VERSION}, the version that this host speaks"));
    Err(CapabilitiesError { hint: is_newer.then_some("update the host"), ..wrong })
}

fn endpoints(field: &Field<'_>) -> Result<BTreeSet<String>, CapabilitiesError> {
    let expected = "a list of endpoints with `execute` or one of the plugin's own";
    if field.given().is_none() {
        return Err(field.wrong_type(expected));
    }
    let mut endpoints = BTreeSet::new();
    for element in field.elements(expected)? {
        let expected = "the name of an endpoint, such as \"execute\": a path without `/` at either \
                      end, and without white space, `?`, `#`, `\\` or other characters that a URL \
                      escapes";
        let endpoint = element.name(expected)?;
        let odd = |char: char| char.is_whitespace() || char.is_control() || "?#\\".contains(char);
        let has_slash = endpoint.starts_with('/') || endpoint.ends_with('/');
        if has_slash || endpoint.contains(odd) || !is_endpoint(&endpoint) {
            return Err(element.wrong_type(expected));
        }
        endpoints.insert(endpoint);
    }
    if endpoints.iter().all(|endpoint| endpoint::OF_PROTOCOL.contains(&endpoint.as_str())) {
        let found = match endpoints.iter().next() {
            None => "is empty".to_owned(),
            Some(_) => {
                let names: Vec<&str> = endpoints.iter().map(String::as_str).collect();
                format!("has only `{}`", names.join("`, `"))
            }
        };
        return Err(field.wrong(&found, expected));
    }
    Ok(endpoints)
}

/// Parses `[{"text":"contract a 1.0\nfn f() -> u64","postcard":false}]`.
fn contracts(field: &Field<'_>) -> Result<Vec<ServedContract>, CapabilitiesError> {
    let mut contracts: Vec<ServedContract> = Vec::new();
    for element in field.elements("a list of contracts")? {
        element.object("a contract: an object with `text`")?;
        let accepts_postcard = element.field("postcard").flag_if_given()?;
        let text = text_of_contract(&element.field("text"))?;
        if contracts.iter().any(|contract| contract.text.name == text.name) {
            let found = format!("describes `{}` again", text.name);
            return Err(element.wrong(&found, "each contract once"));
        }
        contracts.push(ServedContract { text, accepts_postcard });
    }
    Ok(contracts)
}

fn text_of_contract(field: &Field<'_>) -> Result<ContractText, CapabilitiesError> {
    let expected = "the text of one contract, such as \"contract a 1.0\\nfn f(n: u32) -> string\"";
    let mut texts = ContractText::parse(field.text(expected)?).map_err(|error| {
        let (line, column) = error.position();
        field.wrong(&format!("is invalid at line {line}, column {column}"), error.expected())
    })?;
    let text = match (texts.pop(), texts.len()) {
        (Some(text), 0) => text,
        (_, others) => {
            let count = if others == 0 { 0 } else { others + 1 };
            return Err(field.wrong(&format!("describes {count} contracts"), expected));
        }
    };
    field.check_length(&text.name)?;
    for method in &text.methods {
        let name = &method.name;
        if !name.is_ascii() {
            let found = format!("has a method {}", quoted(name, MAX_SHOWN_CHARS));
            return Err(field.wrong(&found, "names in ASCII, since they are part of an URL"));
        }
        field.check_length(name)?;
    }
    Ok(text)
}

const TYPE: &str = "the name of a type";
const TYPES: &str = "a list of types";
const CONFIG_TYPES: &str = "a list of config types";

/// Parses `{"types":{"<kind of plugin>":[{"type","jsonSchema"}]},"configTypes":[…]}`.
fn older(root: &Field<'_>) -> Result<Capabilities, CapabilitiesError> {
    let mut capabilities = Capabilities::empty(Dialect::Older);
    capabilities.types = types_by_group(&root.field("types"))?;
    capabilities.config_types = root.field("configTypes").names(CONFIG_TYPES)?;
    Ok(capabilities)
}

/// Parses `{"capabilities":[{"type","supported…Types":[…]}],"supportedConfigTypes":[…]}`.
fn newer(root: &Field<'_>) -> Result<Capabilities, CapabilitiesError> {
    let mut capabilities = Capabilities::empty(Dialect::Newer);
    for capability in root.field("capabilities").elements("a list of capabilities")? {
        let expected = "a capability: an object with `type` and `supported…Types`";
        let object = capability.object(expected)?;
        let group = capability.field("type").name("the name of a capability")?;
        let mut lists = object.keys().filter(|key| is_list_of_types(key)).peekable();
        if lists.peek().is_none() {
            let found = "has no list whose name is `supported…Types`";
            return Err(capability.wrong(found, TYPES));
        }
        for list in lists {
            read_types(&capability.field(list), &group, &mut capabilities.types)?;
        }
    }
    capabilities.config_types = root.field("supportedConfigTypes").names(CONFIG_TYPES)?;
    Ok(capabilities)
}

/// Parses the types of the older dialect, which ours may contain, too; empty if missing.
fn types_by_group(field: &Field<'_>) -> Result<Vec<Offered>, CapabilitiesError> {
    let mut types = Vec::new();
    let Some(value) = field.given() else { return Ok(types) };
    let Value::Object(groups) = value else {
        return Err(field.wrong_type("an object of lists, by the kind of plugin"));
    };
    for group in groups.keys() {
        let list = field.field(group);
        if group.trim().is_empty() {
            return Err(list.wrong("has an empty name", "the kind of plugin"));
        }
        list.check_length(group)?;
        read_types(&list, group, &mut types)?;
    }
    Ok(types)
}

/// Returns whether a key is a list of types, of which this dialect has one per contract, such as
/// `supportedRepositorySpecTypes`.
fn is_list_of_types(key: &str) -> bool {
    key.strip_prefix("supported").is_some_and(|rest| rest.ends_with("Types"))
}

fn read_types(
    list: &Field<'_>,
    group: &str,
    types: &mut Vec<Offered>,
) -> Result<(), CapabilitiesError> {
    for entry in list.elements(TYPES)? {
        entry.object("a type: an object with `type` and `jsonSchema`")?;
        types.push(Offered {
            group: group.to_owned(),
            name: entry.field("type").name(TYPE)?,
            aliases: entry.field("aliases").names("a list of names, or null")?,
            schema: read_schema(&entry.field("jsonSchema"))?,
        });
        if types.len() > MAX_TYPES {
            return Err(entry.wrong(&format!("is type {}", types.len()), &at_most("types")));
        }
    }
    let aliases: usize = types.iter().map(|offered| offered.aliases.len()).sum();
    if aliases > MAX_TYPES {
        let found = format!("brings the number of aliases to {aliases}");
        return Err(list.wrong(&found, &at_most("aliases")));
    }
    Ok(())
}

fn at_most(what: &str) -> String {
    format!("at most {MAX_TYPES} {what} in all")
}

const SCHEMA: &str = "a JSON Schema as an object, as JSON text, or as base64";

/// Decodes base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Parses the schema in `field`; `None` if it is missing, `null` or an empty text.
fn read_schema(field: &Field<'_>) -> Result<Option<Value>, CapabilitiesError> {
    match field.given() {
        None => Ok(None),
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Some(schema.clone())),
        Some(Value::String(text)) => schema_of_text(field, text.trim()),
        Some(_) => Err(field.wrong_type(SCHEMA)),
    }
}

fn schema_of_text(field: &Field<'_>, text: &str) -> Result<Option<Value>, CapabilitiesError> {
    if text.is_empty() {
        return Ok(None);
    }
    // Base64 has no braces.
    if text.starts_with('{') {
        return schema_of(field, text.as_bytes(), "is a string with");
    }
    let bytes = BASE64.decode(text).map_err(|error| {
        let found = format!("is {}, which is neither JSON nor base64: {error}", quoted(text, 40));
        field.wrong(&found, SCHEMA)
    })?;
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    schema_of(field, &bytes, "is base64 of")
}

fn schema_of(
    field: &Field<'_>,
    json: &[u8],
    form: &str,
) -> Result<Option<Value>, CapabilitiesError> {
    match serde_json::from_slice(json) {
        Ok(Value::Null) => Ok(None),
        Ok(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Some(schema)),
        Ok(other) => {
            let found = format!("{form} {}, which is not a schema", quoted(&other.to_string(), 40));
            Err(field.wrong(&found, SCHEMA))
        }
        Err(error) => {
            let text = quoted(&String::from_utf8_lossy(json), 40);
            Err(field.wrong(&format!("{form} {text}, which is not JSON: {error}"), SCHEMA))
        }
    }
}

/// Characters shown of an invalid text, or of a key in a path.
const MAX_SHOWN_CHARS: usize = 40;

/// A value and its path; `None` stands for a missing field.
struct Field<'v> {
    path: String,
    value: Option<&'v Value>,
}

impl<'v> Field<'v> {
    fn root(value: &'v Value) -> Self {
        Self { path: String::new(), value: Some(value) }
    }

    /// Returns the value, unless it is missing or `null`: Go encodes an empty list as `null`.
    fn given(&self) -> Option<&'v Value> {
        self.value.filter(|value| !value.is_null())
    }

    /// Returns the field `name` of an object; missing if this is not an object.
    fn field(&self, name: &str) -> Field<'v> {
        let plain = |char: char| char.is_alphanumeric() || "-_/.".contains(char);
        let name_shown = match name.chars().count() {
            1..=MAX_SHOWN_CHARS if name.chars().all(plain) => name.to_owned(),
            _ => quoted(name, MAX_SHOWN_CHARS),
        };
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{name_shown}", self.path);
        Field { path, value: self.value.and_then(|value| value.get(name)) }
    }

    /// Returns an error with this path; `found` begins with a verb.
    fn wrong(&self, found: &str, expected: &str) -> CapabilitiesError {
        let (path, found, expected) = (self.path.clone(), found.to_owned(), expected.to_owned());
        CapabilitiesError { path, found, expected, hint: None }
    }

    /// Returns the error that the value has another type.
    fn wrong_type(&self, expected: &str) -> CapabilitiesError {
        let found = match self.value {
            None => "is missing".to_owned(),
            Some(Value::Array(_)) => "is a list".to_owned(),
            Some(Value::Object(_)) => "is an object".to_owned(),
            Some(Value::String(text)) => format!("is {}", quoted(text, MAX_SHOWN_CHARS)),
            Some(other) => format!("is {other}"),
        };
        self.wrong(&found, expected)
    }

    fn object(&self, expected: &str) -> Result<&'v Map<String, Value>, CapabilitiesError> {
        self.value.and_then(Value::as_object).ok_or_else(|| self.wrong_type(expected))
    }

    fn text(&self, expected: &str) -> Result<&'v str, CapabilitiesError> {
        self.value.and_then(Value::as_str).ok_or_else(|| self.wrong_type(expected))
    }

    /// Returns a boolean, or `false` if the field is missing.
    fn flag_if_given(&self) -> Result<bool, CapabilitiesError> {
        match self.given() {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong_type("`true` or `false`")),
        }
    }

    /// Returns a name that is not empty and not too long.
    fn name(&self, expected: &str) -> Result<String, CapabilitiesError> {
        let text = self.text(expected)?;
        if text.trim().is_empty() {
            return Err(self.wrong_type(expected));
        }
        self.check_length(text)?;
        Ok(text.to_owned())
    }

    /// Returns a name, or `None` if the field is missing.
    fn name_if_given(&self, expected: &str) -> Result<Option<String>, CapabilitiesError> {
        self.given().map(|_| self.name(expected)).transpose()
    }

    /// Returns the elements of a list; empty if it is missing or `null`.
    fn elements(&self, expected: &str) -> Result<Vec<Field<'v>>, CapabilitiesError> {
        let Some(value) = self.given() else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.wrong_type(expected))?;
        if list.len() > MAX_TYPES {
            let found = format!("has {} entries", list.len());
            return Err(self.wrong(&found, &format!("at most {MAX_TYPES}")));
        }
        let element =
            |(at, value)| Field { path: format!("{}[{at}]", self.path), value: Some(value) };
        Ok(list.iter().enumerate().map(element).collect())
    }

    /// Returns the names in a list; empty if it is missing or `null`.
    fn names(&self, expected: &str) -> Result<Vec<String>, CapabilitiesError> {
        let each = "a name, a non-empty string";
        self.elements(expected)?.iter().map(|element| element.name(each)).collect()
    }

    /// Rejects a key or a text that is too long for a name.
    fn check_length(&self, name: &str) -> Result<(), CapabilitiesError> {
        if name.len() <= MAX_NAME_BYTES {
            return Ok(());
        }
        let found = format!("has a name of {} bytes", name.len());
        Err(self.wrong(&found, &format!("at most {MAX_NAME_BYTES}")))
    }
}

/// Returns the first `max_chars` characters of `text`, quoted, with invisible ones escaped.
fn quoted(text: &str, max_chars: usize) -> String {
    let mut left = text.chars();
    let mut shown: String = left.by_ref().take(max_chars).collect();
    if left.next().is_some() {
        shown.push('…');
    }
    format!("{shown:?}")
}
