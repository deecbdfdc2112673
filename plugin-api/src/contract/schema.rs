//! JSON Schemas of arguments and results, from the types in the text of a contract.

use serde_json::{Map, Value, json};

use super::text::{FieldTypes, MethodText, Type};

impl MethodText {
    /// Returns a JSON Schema of its arguments: an object with a property for each.
    ///
    /// ```
    /// use hotbay_plugin::contract::ContractText;
    /// use serde_json::json;
    ///
    /// let text = "contract a 1.0\nfn find(text: string, max: u8?) -> [(string, bool)]";
    /// let find = &ContractText::parse(text)?[0].methods[0];
    /// assert_eq!(
    ///     find.arguments_schema(),
    ///     json!({
    ///         "type": "object",
    ///         "properties": {
    ///             "text": { "type": "string" },
    ///             "max": {
    ///                 "anyOf": [{ "type": "integer", "minimum": 0, "maximum": 255 }, { "type": "null" }],
    ///             },
    ///         },
    ///         "required": ["text"],
    ///     })
    /// );
    /// # Ok::<(), hotbay_plugin::contract::InvalidText>(())
    /// ```
    pub fn arguments_schema(&self) -> Value {
        object(self.arguments.iter().map(|(name, found)| (name, found, false)))
    }

    /// Returns a JSON Schema of its result, or of an item of its stream.
    pub fn output_schema(&self) -> Value {
        self.output.json_schema()
    }
}

impl Type {
    /// Returns a JSON Schema of the values as JSON (draft 2020-12).
    pub fn json_schema(&self) -> Value {
        match self {
            Self::Scalar(name) => scalar(name),
            Self::List(item) => json!({ "type": "array", "items": item.json_schema() }),
            Self::Set(item) => {
                json!({ "type": "array", "items": item.json_schema(), "uniqueItems": true })
            }
            Self::Optional(value) => json!({ "anyOf": [value.json_schema(), { "type": "null" }] }),
            Self::Map(key, value) => {
                let mut schema =
                    json!({ "type": "object", "additionalProperties": value.json_schema() });
                // Keys that are numbers are text in JSON.
                if key.integer_range().is_some() {
                    schema["propertyNames"] = json!({ "pattern": "^-?[0-9]+$" });
                }
                schema
            }
            Self::Tuple(parts) => tuple(parts),
            Self::Struct(_, fields) => of_fields(fields),
            Self::Enum(_, variants) => {
                let variants = variants.iter().map(|(name, fields)| match fields {
                    FieldTypes::Unit => json!({ "const": name }),
                    fields => {
                        let content = Map::from_iter([(name.clone(), of_fields(fields))]);
                        json!({ "type": "object", "properties": content, "required": [name] })
                    }
                });
                json!({ "anyOf": variants.collect::<Vec<_>>() })
            }
        }
    }

    /// Returns the smallest and the largest value of an integer type.
    fn integer_range(&self) -> Option<(i64, u64)> {
        let Self::Scalar(name) = self else { return None };
        let bits: u32 = name.get(1..)?.parse().ok()?;
        if !matches!(bits, 8 | 16 | 32 | 64) {
            return None;
        }
        match name.as_bytes()[0] {
            b'u' => Some((0, u64::MAX >> (64 - bits))),
            b'i' => Some((i64::MIN >> (64 - bits), u64::MAX >> (65 - bits))),
            _ => None,
        }
    }
}

fn scalar(name: &str) -> Value {
    if let Some((minimum, maximum)) = Type::Scalar(name.to_owned()).integer_range() {
        return json!({ "type": "integer", "minimum": minimum, "maximum": maximum });
    }
    match name {
        "unit" => json!({ "type": "null" }),
        "bool" => json!({ "type": "boolean" }),
        "char" => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        "f32" | "f64" => json!({ "type": "number" }),
        "string" => json!({ "type": "string" }),
        // `json`, and names of later versions.
        _ => json!(true),
    }
}

fn of_fields(fields: &FieldTypes) -> Value {
    match fields {
        FieldTypes::Unit => json!({ "type": "null" }),
        // serde writes it as its only field.
        FieldTypes::Unnamed(parts) if parts.len() == 1 => parts[0].json_schema(),
        FieldTypes::Unnamed(parts) => tuple(parts),
        FieldTypes::Named(fields) => {
            object(fields.iter().map(|(name, found, has_default)| (name, found, *has_default)))
        }
    }
}

fn tuple(parts: &[Type]) -> Value {
    let (items, count): (Vec<_>, _) = (parts.iter().map(Type::json_schema).collect(), parts.len());
    if items.is_empty() {
        return json!({ "type": "array", "maxItems": 0 });
    }
    json!({ "type": "array", "prefixItems": items, "minItems": count, "maxItems": count })
}

fn object<'t>(fields: impl Iterator<Item = (&'t String, &'t Type, bool)>) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, found, has_default) in fields {
        properties.insert(name.clone(), found.json_schema());
        if !has_default && !matches!(found, Type::Optional(_)) {
            required.push(name.as_str());
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ContractText;

    fn check(found: &str, schema: Value) {
        let text = format!("contract a 1.0\nfn f() -> {found}");
        let contracts = ContractText::parse(&text).unwrap();
        assert_eq!(contracts[0].methods[0].output_schema(), schema, "{found}");
    }

    #[test]
    fn schemas_describe_the_json_of_serde() {
        check("unit", json!({ "type": "null" }));
        check("json", json!(true));
        let max = u64::MAX;
        check("u64", json!({ "type": "integer", "minimum": 0, "maximum": max }));
        check("i8", json!({ "type": "integer", "minimum": -128, "maximum": 127 }));
        let integers = json!({ "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX });
        check("i64", integers);
        check(
            "map<u8, bool>",
            json!({
                "type": "object", "additionalProperties": { "type": "boolean" },
                "propertyNames": { "pattern": "^-?[0-9]+$" },
            }),
        );
        check("plain Meters(f64)", json!({ "type": "number" }));
        check("()", json!({ "type": "array", "maxItems": 0 }));
        check(
            "set<(char, f32)>",
            json!({ "type": "array", "uniqueItems": true, "items": {
                "type": "array", "minItems": 2, "maxItems": 2, "prefixItems": [
                    { "type": "string", "minLength": 1, "maxLength": 1 }, { "type": "number" },
                ],
            } }),
        );
        let text = json!({ "type": "string" });
        let named = json!({
            "type": "object", "properties": { "a": text, "b": text }, "required": ["a"],
        });
        check("Named { a: string, b: string = default }", named.clone());
        let tagged = |name: &str, content: Value| {
            let properties = Map::from_iter([(name.to_owned(), content)]);
            json!({ "type": "object", "properties": properties, "required": [name] })
        };
        check(
            "enum E { A, B(string), C { a: string, b: string = default } }",
            json!({ "anyOf": [{ "const": "A" }, tagged("B", text), tagged("C", named)] }),
        );
    }
}
