//! Selects the parts of a plugin's config that its program receives, and their types. Pure.
//!
//! In our protocol the whole config has the type `hotbay/v1`. In addition, and in the older
//! dialects exclusively, each member of the config whose name is a declared config type is
//! delivered as that type.

use serde_json::Value;

use super::dialect::{Capabilities, Dialect};

/// The type of the whole config.
const WHOLE: &str = "hotbay/v1";

/// The parts of a config that are delivered.
#[derive(Debug, PartialEq)]
pub(super) struct Delivery<'c> {
    /// Each type with its value.
    pub(super) entries: Vec<(&'c str, &'c Value)>,
    /// Declared types that are missing, and members that are not delivered, as sentences.
    pub(super) notes: Vec<String>,
}

/// Selects the members of `config`, an object, by the types that the program declares.
pub(super) fn delivery<'c>(capabilities: &'c Capabilities, config: &'c Value) -> Delivery<'c> {
    let declared = &capabilities.config_types;
    let takes_whole = matches!(capabilities.dialect, Dialect::Ours { .. })
        || declared.iter().any(|declared| declared == WHOLE);
    let mut entries = Vec::new();
    if takes_whole {
        entries.push((WHOLE, config));
    }
    let mut notes = Vec::new();
    for name in declared.iter().map(String::as_str).filter(|name| *name != WHOLE) {
        match config.get(name) {
            Some(_) if entries.iter().any(|(known, _)| *known == name) => {}
            Some(value) => entries.push((name, value)),
            None => notes.push(format!(
                "`config` has no member `{name}`, a config type that the program declares; the \
                 program receives no value for it"
            )),
        }
    }
    if !takes_whole {
        let members = config.as_object().into_iter().flatten();
        let unknown = members.filter(|(name, _)| !declared.contains(name));
        notes.extend(unknown.map(|(name, _)| {
            let known = match declared.is_empty() {
                true => "it declares none".to_owned(),
                false => format!("it declares `{}`", declared.join("`, `")),
            };
            format!(
                "`config.{name}` is not delivered: the program does not declare the config type \
                 `{name}`; {known}"
            )
        }));
    }
    Delivery { entries, notes }
}

/// Returns the notes of `delivery`.
pub(crate) fn notes(capabilities: &Capabilities, config: &Value) -> Vec<String> {
    delivery(capabilities, config).notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(capabilities: &Value, config: &Value, entries: &[&str], notes: &[&str]) {
        let text = capabilities.to_string();
        let capabilities = Capabilities::parse(text.as_bytes()).expect("capabilities");
        let found = delivery(&capabilities, config);
        let names: Vec<_> = found.entries.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, entries);
        for (name, value) in &found.entries {
            let expected = if *name == WHOLE { Some(config) } else { config.get(name) };
            assert_eq!(Some(*value), expected);
        }
        assert_eq!(found.notes.len(), notes.len(), "{:?}", found.notes);
        for (found, expected) in found.notes.iter().zip(notes) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn declared_types_are_delivered_and_others_are_noted() {
        let older = |types: &[&str]| json!({ "types": {}, "configTypes": types });
        let newer = json!({ "capabilities": [], "supportedConfigTypes": ["db/v1"] });
        let ours = json!({
            "hotbay": { "protocol": 1, "endpoints": ["execute"] }, "configTypes": ["db/v1"],
        });
        let config = json!({ "db/v1": { "url": "x" }, "more": 1 });
        check(&older(&["db/v1"]), &config, &["db/v1"], &["`config.more` is not delivered"]);
        check(&newer, &config, &["db/v1"], &["it declares `db/v1`"]);
        check(&ours, &config, &[WHOLE, "db/v1"], &[]);
        check(&ours, &json!({}), &[WHOLE], &["no member `db/v1`"]);
        check(&older(&["db/v1", "log"]), &json!({}), &[], &["`db/v1`", "`log`"]);
        check(&older(&[]), &config, &[], &["it declares none", "it declares none"]);
        check(&older(&[WHOLE, "db/v1"]), &config, &[WHOLE, "db/v1"], &[]);
        check(&older(&["db/v1", "db/v1"]), &json!({ "db/v1": 0 }), &["db/v1"], &[]);
    }
}
