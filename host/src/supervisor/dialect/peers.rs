//! The two older dialects, which offer types known to the application.

use serde_json::Value;

use super::fields::Field;
use super::{Capabilities, CapabilitiesError, Dialect, MAX_TYPES, Offered, schema};

const TYPE: &str = "the name of a type";
const TYPES: &str = "a list of types";
const CONFIG_TYPES: &str = "a list of config types";

/// Parses `{"types":{"<kind of plugin>":[{"type","jsonSchema"}]},"configTypes":[…]}`.
pub(super) fn older(root: &Field<'_>) -> Result<Capabilities, CapabilitiesError> {
    let mut capabilities = Capabilities::empty(Dialect::Older);
    capabilities.types = types_by_group(&root.field("types"))?;
    capabilities.config_types = root.field("configTypes").names(CONFIG_TYPES)?;
    Ok(capabilities)
}

/// Parses `{"capabilities":[{"type","supported…Types":[…]}],"supportedConfigTypes":[…]}`.
pub(super) fn newer(root: &Field<'_>) -> Result<Capabilities, CapabilitiesError> {
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
pub(super) fn types_by_group(field: &Field<'_>) -> Result<Vec<Offered>, CapabilitiesError> {
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
            schema: schema::read(&entry.field("jsonSchema"))?,
        });
        if types.len() > MAX_TYPES {
            return Err(entry.wrong(&format!("is type {}", types.len()), &at_most("types")));
        }
    }
    let aliases: usize = types.iter().map(|offered| offered.aliases.len()).sum();
    if aliases > MAX_TYPES {
        return Err(list.wrong(&format!("has alias {aliases}"), &at_most("aliases")));
    }
    Ok(())
}

fn at_most(what: &str) -> String {
    format!("at most {MAX_TYPES} {what} in all")
}
