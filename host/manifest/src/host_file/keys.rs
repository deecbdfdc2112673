//! Whose signatures a host trusts: the fields `signatures` and `keys`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::fields::{Field, HostShape, Presence, Shape, field};
use crate::rules::Expected;
use crate::signed_files::SignaturePolicy;
use crate::trusted_key::{is_date, is_name_pattern, is_public_key};

/// A name, or the beginning of one and `*`.
const NAMES_PATTERN: &str = r"^(\*|[a-z][a-z0-9-]*\*?)$";

/// The words of `signatures`.
pub(crate) const POLICIES: &[&str] = &["off", "if-present", "required"];

/// The field `signatures`.
pub(crate) const SIGNATURES: Field = field(
    "signatures",
    Shape::Words(POLICIES),
    Presence::Optional,
    "`required`, `if-present` or `off`",
    "Whether plugins must be signed. With `if-present`, a plugin may have no signature, unless the \
     build that it replaces has one. Default: `if-present` if there are `keys`, else `off`.",
);

/// The field `keys`.
pub(crate) const KEYS: Field = field(
    "keys",
    Shape::Host(HostShape::Keys(KEY)),
    Presence::Optional,
    "a table of keys",
    "Keys whose signatures are trusted, by names of your choice, which messages show.",
);

/// The fields of an entry of `keys`.
pub(crate) const KEY: &[Field] = &[
    field(
        "public_key",
        Shape::Pattern("^RW[A-Za-z0-9+/]{54}$"),
        Presence::Required,
        "a public key of minisign: 56 characters that begin with `RW`",
        "Public key, as `hotbay sign --new-key` prints it.",
    ),
    field(
        "plugins",
        Shape::Host(HostShape::NamePatterns(NAMES_PATTERN)),
        Presence::Optional,
        "a list of names of plugins such as `storage`, or beginnings of names and `*`, such as `acme-*`",
        "Plugins that the key may sign, by the names in their manifests. Without this list, all.",
    ),
    field(
        "expires",
        Shape::Host(HostShape::Date),
        Presence::Optional,
        "a date such as `2027-01-31`",
        "Last day, in UTC, on which signatures of the key are accepted.",
    ),
];

/// A key whose signatures are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySettings {
    /// The public key in the text form of minisign.
    pub public_key: String,
    /// The plugins that it may sign; `None` for all.
    pub plugins: Option<Vec<String>>,
    /// The last day of trust, such as `2027-01-31`.
    pub expires: Option<String>,
}

/// The keys of a file by name.
pub type Keys = BTreeMap<String, KeySettings>;

impl KeySettings {
    pub(super) fn set(&mut self, field: &str, value: &Value) {
        let text = || value.as_str().unwrap_or_default().to_owned();
        match field {
            "public_key" => self.public_key = text(),
            "plugins" => self.plugins = Some(texts(value)),
            "expires" => self.expires = Some(text()),
            _ => debug_assert!(false, "`{field}` is in the table of fields but not here"),
        }
    }
}

fn texts(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

pub(super) fn policy(value: &Value) -> Option<SignaturePolicy> {
    let policies = [SignaturePolicy::Off, SignaturePolicy::IfPresent, SignaturePolicy::Required];
    policies.into_iter().find(|policy| value.as_str() == Some(policy.as_str()))
}

pub(super) fn public_key(text: &str) -> Result<String, Expected> {
    is_public_key(text).then(|| text.to_owned()).ok_or(None)
}

pub(super) fn date(text: &str) -> Result<Value, Expected> {
    is_date(text).then(|| text.into()).ok_or(None)
}

pub(super) fn name_pattern(text: &str) -> Result<String, Expected> {
    let expected = || Some("a plugin's name, or the beginning of one and `*`".to_owned());
    is_name_pattern(text).then(|| text.to_owned()).ok_or_else(expected)
}
