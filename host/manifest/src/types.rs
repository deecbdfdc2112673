//! Validates requests that name their type: JSON objects with a `type`, each with the schema that
//! the plugin declares for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;

use super::Checker;
use crate::schema_error::SchemaError;

/// The schemas of types, by each of their names.
#[derive(Clone, Debug, Default)]
pub struct Types(BTreeMap<String, Arc<Checker>>);

#[derive(Deserialize)]
struct Typed {
    r#type: String,
}

impl Types {
    /// Adds a type under its names. The first type with a name keeps it.
    pub fn add<'n>(&mut self, names: impl Iterator<Item = &'n String>, checker: Checker) {
        let checker = Arc::new(checker);
        for name in names {
            self.0.entry(name.clone()).or_insert_with(|| Arc::clone(&checker));
        }
    }

    /// Returns whether no type has a schema.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Validates an input that names one of the types; accepts any other. Stops at `deadline`.
    ///
    /// # Errors
    ///
    /// Fails with the name of the type if the input does not match its schema.
    pub fn check<'t>(
        &'t self,
        input: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), (&'t str, SchemaError)> {
        let Ok(Typed { r#type }) = serde_json::from_slice(input) else { return Ok(()) };
        let Some((name, checker)) = self.0.get_key_value(&r#type) else { return Ok(()) };
        checker.check_text(input, deadline).map_err(|error| (name.as_str(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_typed_inputs_must_match_their_schema() {
        let schema = json!({ "required": ["path"] });
        let mut types = Types::default();
        let names = ["Blob/v1".to_owned(), "blob".to_owned()];
        types.add(names.iter(), Checker::new(&schema, None).expect("a schema"));
        let check = |input: &str| match types.check(input.as_bytes(), None) {
            Ok(()) => String::new(),
            Err((name, error)) => format!("{name}: {error}"),
        };
        assert_eq!(check("no JSON"), "");
        assert_eq!(check(r#"{ "type": "other" }"#), "");
        assert_eq!(check(r#"{ "type": "blob", "path": "x" }"#), "");
        assert_eq!(check(r#"{ "type": "Blob/v1" }"#), "Blob/v1: \"path\" is a required property");
        assert_eq!(check(r#"{ "type": "blob" }"#), "blob: \"path\" is a required property");
    }
}
