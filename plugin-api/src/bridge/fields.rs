//! Writes fields as a JSON object up to a maximum size. The rest is neither kept nor formatted.
//! Independent of `tracing`.

use std::fmt::{self, Write};

use crate::services::MAX_LINE_BYTES;
use crate::text::CUT;

/// Bytes reserved for the end of a truncated object: a mark, brackets and the field `cut`.
const MAX_END_BYTES: usize = 64;

/// Fields in the format of [`Record::fields`](crate::services::Record::fields). A long value is
/// truncated. If fields were dropped, the object has the field `"cut": true`.
#[derive(Debug, Default)]
pub(super) struct Fields {
    json: String,
    is_cut: bool,
}

impl Fields {
    pub(super) fn bool(&mut self, name: &str, value: bool) {
        self.add(name, |json| json.push(format_args!("{value}")));
    }

    pub(super) fn i64(&mut self, name: &str, value: i64) {
        self.add(name, |json| json.push(format_args!("{value}")));
    }

    pub(super) fn u64(&mut self, name: &str, value: u64) {
        self.add(name, |json| json.push(format_args!(r#"{{"u64":{value}}}"#)));
    }

    pub(super) fn f64(&mut self, name: &str, value: f64) {
        self.add(name, |json| json.push(format_args!(r#"{{"f64":"{value:?}"}}"#)));
    }

    pub(super) fn str(&mut self, name: &str, value: &str) {
        self.add(name, |json| json.push_quoted(format_args!("{value}")));
    }

    /// Adds a value that is only available as text.
    pub(super) fn debug(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.add(name, |json| {
            json.push(format_args!(r#"{{"debug":"#));
            json.push_quoted(value);
            json.push(format_args!("}}"));
        });
    }

    /// Returns the object, or the empty string if it has no fields.
    pub(super) fn finish(mut self) -> String {
        if self.is_cut {
            let comma = if self.json.is_empty() { "{" } else { "," };
            self.json.push_str(comma);
            self.json.push_str(r#""cut":true"#);
        }
        if !self.json.is_empty() {
            self.json.push('}');
        }
        self.json
    }

    fn add(&mut self, name: &str, value: impl FnOnce(&mut JsonWriter<'_>)) {
        // A byte of a name takes up to six bytes when escaped; the rest is for a number and
        // brackets.
        let remaining = (MAX_LINE_BYTES - MAX_END_BYTES).saturating_sub(self.json.len());
        if self.is_cut || name.len() * 6 + MAX_END_BYTES > remaining {
            self.is_cut = true;
            return;
        }
        let first = self.json.is_empty();
        let mut json = JsonWriter { json: &mut self.json };
        json.push(format_args!("{}", if first { "{" } else { "," }));
        json.push_quoted(format_args!("{name}"));
        json.push(format_args!(":"));
        value(&mut json);
    }
}

struct JsonWriter<'f> {
    json: &'f mut String,
}

impl JsonWriter<'_> {
    /// Writes short JSON.
    fn push(&mut self, json: fmt::Arguments<'_>) {
        // Writing to a string never fails.
        let _ = self.json.write_fmt(json);
    }

    /// Writes text as a JSON string, truncated if it does not fit.
    fn push_quoted(&mut self, text: fmt::Arguments<'_>) {
        self.json.push('"');
        let mut quoted = JsonString { json: self.json, is_cut: false };
        // Fails if the text is truncated, or if the author's code fails.
        let _ = quoted.write_fmt(text);
        if quoted.is_cut {
            self.json.push_str(CUT);
        }
        self.json.push('"');
    }
}

/// Writes the content of a JSON string.
struct JsonString<'f> {
    json: &'f mut String,
    is_cut: bool,
}

impl Write for JsonString<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            if self.is_cut || self.json.len() + 6 > MAX_LINE_BYTES - MAX_END_BYTES {
                self.is_cut = true;
                return Err(fmt::Error);
            }
            match char {
                '"' => self.json.push_str("\\\""),
                '\\' => self.json.push_str("\\\\"),
                '\n' => self.json.push_str("\\n"),
                '\0'..='\x1f' => write!(self.json, "\\u{:04x}", u32::from(char))?,
                _ => self.json.push(char),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(fields: Fields) -> Value {
        let json = fields.finish();
        assert!(json.len() <= MAX_LINE_BYTES, "{} bytes", json.len());
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    #[test]
    fn types_are_preserved_in_json() {
        let mut fields = Fields::default();
        fields.bool("b", true);
        fields.i64("i", i64::MIN);
        fields.u64("u", u64::MAX);
        fields.f64("f", 0.1);
        fields.f64("n", f64::NAN);
        fields.str("s", "a \"b\"\\\n\u{1}ü");
        fields.debug("d", format_args!("{:?}", Some("x")));
        let expected = json!({
            "b": true, "i": i64::MIN, "u": { "u64": u64::MAX }, "f": { "f64": "0.1" },
            "n": { "f64": "NaN" }, "s": "a \"b\"\\\n\u{1}ü", "d": { "debug": "Some(\"x\")" },
        });
        assert_eq!(parsed(fields), expected);
    }

    #[test]
    fn no_fields_give_an_empty_string() {
        assert_eq!(Fields::default().finish(), "");
    }

    #[test]
    fn long_value_is_truncated_and_later_fields_are_dropped() {
        for char in ["x", "\u{1}", "\"", "…"] {
            let mut fields = Fields::default();
            fields.i64("first", 1);
            fields.debug("long", format_args!("{}", char.repeat(MAX_LINE_BYTES)));
            fields.bool("last", true);
            let fields = parsed(fields);
            let long = fields["long"]["debug"].as_str().unwrap();
            assert!(long.ends_with(&format!("{char}{CUT}")));
            assert_eq!(fields["first"], 1);
            assert_eq!(fields.get("last"), None);
            assert_eq!(fields["cut"], true);
        }
    }

    #[test]
    fn many_fields_and_long_names_stay_within_the_limit() {
        let mut fields = Fields::default();
        for number in 0..MAX_LINE_BYTES {
            fields.f64(&format!("field {number}"), f64::MIN_POSITIVE);
        }
        assert_eq!(parsed(fields)["cut"], true);
        let mut fields = Fields::default();
        fields.bool(&"\u{1}".repeat(MAX_LINE_BYTES), true);
        assert_eq!(parsed(fields), json!({ "cut": true }));
    }
}
