//! The forms of the values of a sandbox: lists with elements of one form, and numbers of
//! processors or seconds.

use serde_json::{Value, json};

use super::name::nearest;
use super::net_rule::NetRule;
use super::words::SandboxRule;

/// A list of the section, whose elements have one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entries {
    Paths,
    Programs,
    Ports,
    Variables,
    Rules,
}

const PLACEHOLDER_PATTERN: &str = r"^(?!(.*/)?\.\.(/|$))(/|\{(plugin|state|tmp)\}(/|$))";
const PROGRAM_PATTERN: &str = r"^(?!(.*/)?\.\.(/|$))((/|\{(plugin|state|tmp)\}/).*|[^/\x00{}]+)$";
const PORT_PATTERN: &str = r"^(udp:)?((\d{1,3}(\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\]):)?\d{1,5}$";
const VARIABLE_PATTERN: &str = r"^[A-Za-z_][A-Za-z0-9_]*$";

/// The placeholders of paths.
pub(crate) const PLACEHOLDERS: [&str; 3] = ["{plugin}", "{state}", "{tmp}"];

impl Entries {
    /// Returns the JSON Schema of an element.
    pub(crate) fn schema(self) -> Value {
        match self {
            Self::Paths => json!({ "type": "string", "pattern": PLACEHOLDER_PATTERN }),
            Self::Programs => json!({ "type": "string", "pattern": PROGRAM_PATTERN }),
            Self::Variables => json!({ "type": "string", "pattern": VARIABLE_PATTERN }),
            Self::Rules => json!({ "enum": SandboxRule::WORDS }),
            Self::Ports => json!({ "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": u16::MAX },
                { "type": "string", "pattern": PORT_PATTERN },
            ] }),
        }
    }

    /// Checks an element.
    pub(crate) fn check(self, value: &Value) -> Result<(), Option<String>> {
        let text = value.as_str();
        let (is_valid, expected) = match self {
            Self::Paths => (
                text.is_some_and(is_path),
                "an absolute path without `..`, or one that begins with `{plugin}`, `{state}` or \
                 `{tmp}`",
            ),
            Self::Programs => (
                text.is_some_and(|text| is_path(text) || is_program_name(text)),
                "an absolute path, or the name of a program in `PATH`",
            ),
            Self::Variables => {
                (text.is_some_and(is_variable), "the name of a variable, such as `TZ`")
            }
            Self::Rules => {
                let nearest =
                    text.and_then(|text| nearest(text, SandboxRule::WORDS.iter().copied()));
                if text.and_then(SandboxRule::from_word).is_some() {
                    return Ok(());
                }
                let suggestion = nearest.map(|nearest| format!(" (did you mean `{nearest}`?)"));
                return Err(Some(format!(
                    "one of `{}`{}",
                    SandboxRule::WORDS.join("`, `"),
                    suggestion.unwrap_or_default()
                )));
            }
            Self::Ports => (
                NetRule::from_json(value).is_some(),
                "a port such as 443, an address with a port such as \"127.0.0.1:5432\", or \
                 \"udp:53\"; host names cannot be restricted",
            ),
        };
        if is_valid { Ok(()) } else { Err(Some(expected.to_owned())) }
    }
}

fn is_path(text: &str) -> bool {
    let rest = PLACEHOLDERS.iter().find_map(|placeholder| text.strip_prefix(placeholder));
    let has_start = match rest {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => text.starts_with('/'),
    };
    has_start && !text.contains('\0') && text.split('/').all(|part| part != "..")
}

fn is_program_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '\0', '{', '}']) && text != ".."
}

fn is_variable(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Converts processors or seconds to thousandths of one.
pub(crate) fn thousandths(number: f64) -> Option<u64> {
    let thousandths = (number * 1000.0).round();
    (1.0..=MAX_THOUSANDTHS).contains(&thousandths).then_some(thousandths as u64)
}

const MAX_THOUSANDTHS: f64 = 4_096_000.0;

/// Checks a number of processors or seconds.
pub(crate) fn check_decimal(value: &Value) -> Result<(), Option<String>> {
    value.as_f64().and_then(thousandths).map(drop).ok_or(None)
}
