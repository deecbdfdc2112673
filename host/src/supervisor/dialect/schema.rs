//! Parses JSON Schemas in the three forms that programs send. Does not interpret them.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::CapabilitiesError;
use super::fields::{Field, quoted};

const EXPECTED: &str = "a JSON Schema as an object, as JSON text, or as base64";

/// Decodes base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Parses the schema in `field`; `None` if it is missing, `null` or an empty text.
pub(super) fn read(field: &Field<'_>) -> Result<Option<Value>, CapabilitiesError> {
    match field.given() {
        None => Ok(None),
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Some(schema.clone())),
        Some(Value::String(text)) => of_text(field, text.trim()),
        Some(_) => Err(field.wrong_type(EXPECTED)),
    }
}

fn of_text(field: &Field<'_>, text: &str) -> Result<Option<Value>, CapabilitiesError> {
    if text.is_empty() {
        return Ok(None);
    }
    // Base64 has no braces.
    if text.starts_with('{') {
        return schema_of(field, text.as_bytes(), "is a string with");
    }
    let bytes = BASE64.decode(text).map_err(|error| {
        let found = format!("is {}, which is neither JSON nor base64: {error}", quoted(text, 40));
        field.wrong(&found, EXPECTED)
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
            Err(field.wrong(&found, EXPECTED))
        }
        Err(error) => {
            let text = quoted(&String::from_utf8_lossy(json), 40);
            Err(field.wrong(&format!("{form} {text}, which is not JSON: {error}"), EXPECTED))
        }
    }
}
