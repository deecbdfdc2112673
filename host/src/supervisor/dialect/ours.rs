//! Our own protocol: endpoints of the plugin, its schemas, and the supported config channels.

use std::collections::BTreeSet;

use super::fields::Field;
use super::peers::types_by_group;
use super::{Capabilities, CapabilitiesError, Dialect, PROTOCOL, schema};

/// Endpoints of the protocol itself, which are not functions of the plugin.
const PROTOCOL_ENDPOINTS: [&str; 5] = ["batch", "healthz", "restore", "shutdown", "snapshot"];

/// Parses `{"hotbay":{"protocol":1,"endpoints":["execute",…],…},"types":{…}}`.
pub(super) fn read(root: &Field<'_>) -> Result<Capabilities, CapabilitiesError> {
    let hotbay = root.field("hotbay");
    hotbay.object("an object with `protocol` and `endpoints`")?;
    // First, since a newer protocol may change the meaning of every other field.
    let protocol = protocol(&hotbay.field("protocol"))?;
    let channels = hotbay.field("config").names("a list such as [\"env\", \"file\"]")?;
    Ok(Capabilities {
        dialect: Dialect::Ours { protocol },
        types: types_by_group(&root.field("types"))?,
        config_types: root.field("configTypes").names("a list of config types")?,
        endpoints: endpoints(&hotbay.field("endpoints"))?,
        reads_config_from_env: channels.iter().any(|channel| channel == "env"),
        reads_config_from_file: channels.iter().any(|channel| channel == "file"),
        config_schema: schema::read(&hotbay.field("configSchema"))?,
        input_schema: schema::read(&hotbay.field("inputSchema"))?,
        name: hotbay.field("name").name_if_given("the name of the plugin")?,
        version: hotbay.field("version").name_if_given("the version of the plugin, a string")?,
    })
}

fn protocol(field: &Field<'_>) -> Result<u32, CapabilitiesError> {
    let number = field.given().and_then(serde_json::Value::as_u64);
    if number == Some(PROTOCOL.into()) {
        return Ok(PROTOCOL);
    }
    let is_newer = number.is_some_and(|number| number > PROTOCOL.into());
    let wrong = field.wrong_type(&format!("{PROTOCOL}, the version that this host speaks"));
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
                      end, and without white space, `?`, `#` or `\\`";
        let endpoint = element.name(expected)?;
        let odd = |char: char| char.is_whitespace() || char.is_control() || "?#\\".contains(char);
        if endpoint.starts_with('/') || endpoint.ends_with('/') || endpoint.contains(odd) {
            return Err(element.wrong_type(expected));
        }
        endpoints.insert(endpoint);
    }
    if endpoints.iter().all(|endpoint| PROTOCOL_ENDPOINTS.contains(&endpoint.as_str())) {
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
