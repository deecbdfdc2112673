//! What the program says it can do.

use serde_json::{Value, json};

use super::program::Program;

/// Endpoints that every program of ours has, beside `healthz` and `shutdown`.
const USUAL: [&str; 4] = ["execute", "snapshot", "restore", "batch"];

/// Names that a program cannot give to endpoints of its own.
const TAKEN: [&str; 6] = ["execute", "snapshot", "restore", "batch", "healthz", "shutdown"];

/// What the program can do, as JSON.
///
/// # Errors
///
/// A mistake of the author's in what the macro was given.
pub(super) fn text<T>(program: &Program<T>) -> Result<String, String> {
    let own: Vec<_> = program.endpoints.iter().map(|(name, _)| *name).collect();
    check_names(&own)?;
    let mut ours = json!({
        "protocol": 1,
        "name": program.name,
        "version": program.version,
        "endpoints": USUAL.into_iter().chain(own).collect::<Vec<_>>(),
        "config": ["env", "file"],
    });
    let schemas = [
        ("configSchema", "config_schema", program.config_schema),
        ("inputSchema", "input_schema", program.input_schema),
    ];
    for (key, name, schema) in schemas {
        let Some(schema) = schema else { continue };
        let schema: Value = serde_json::from_str(schema)
            .map_err(|error| format!("`{name}` of `serve_plugin!` is not JSON: {error}"))?;
        ours[key] = schema;
    }
    Ok(json!({ "hotbay": ours }).to_string())
}

fn check_names(own: &[&str]) -> Result<(), String> {
    for (index, name) in own.iter().enumerate() {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if name.is_empty() || name.starts_with('/') || !name.bytes().all(fits) {
            return Err(format!(
                "the endpoint `{name}` of `serve_plugin!` is no name such as `rows` or `v1/rows`"
            ));
        }
        if TAKEN.contains(name) || own[..index].contains(name) {
            return Err(format!("the endpoint `{name}` of `serve_plugin!` is there already"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CallContext, Config, HostServices, Output, Payload, Plugin, PluginError};

    struct Rows;

    impl Plugin for Rows {
        fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
            Ok(Self)
        }

        fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
            Ok(Output::text(""))
        }
    }

    fn program() -> Program<Rows> {
        Program::new("rows", "0.1.0")
    }

    #[test]
    fn names_endpoints_and_schemas_are_told() {
        let told = text(&program()).unwrap();
        let wanted = r#"{"hotbay":{"config":["env","file"],"endpoints":["execute","snapshot","restore","batch"],"name":"rows","protocol":1,"version":"0.1.0"}}"#;
        assert_eq!(
            serde_json::from_str::<Value>(&told).unwrap(),
            serde_json::from_str::<Value>(wanted).unwrap()
        );
        let program = program()
            .endpoint("rows", Rows::execute)
            .config_schema(r#"{"type":"object"}"#)
            .input_schema("true");
        let told: Value = serde_json::from_str(&text(&program).unwrap()).unwrap();
        assert_eq!(told["hotbay"]["endpoints"][4], "rows");
        assert_eq!(told["hotbay"]["configSchema"], json!({ "type": "object" }));
        assert_eq!(told["hotbay"]["inputSchema"], true);
    }

    #[test]
    fn mistakes_of_the_author_are_told() {
        for (program, says) in [
            (program().endpoint("execute", Rows::execute), "`execute` of `serve_plugin!` is there"),
            (
                program().endpoint("a", Rows::execute).endpoint("a", Rows::execute),
                "is there already",
            ),
            (program().endpoint("a b", Rows::execute), "is no name"),
            (program().endpoint("", Rows::execute), "is no name"),
            (program().config_schema("{"), "`config_schema` of `serve_plugin!` is not JSON"),
        ] {
            let mistake = text(&program).unwrap_err();
            assert!(mistake.contains(says), "{mistake}");
        }
    }
}
