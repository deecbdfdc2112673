//! The plugin `{{name}}`: takes a name as text and returns a greeting.

use hotbay_plugin::prelude::*;
use serde::Deserialize;

/// Greets the person that the input names.
#[derive(Debug)]
pub struct Greeter {
    settings: Settings,
}

/// The `config` of `plugin.json`.
#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(default = "hello")]
    greeting: String,
}

impl Plugin for Greeter {
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError> {
        let settings: Settings = config.parse()?;
        host.debug(&format!("greeting: `{}`", settings.greeting));
        Ok(Self { settings })
    }

    fn execute(&self, _ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let name = input.as_text()?.trim();
        if name.is_empty() {
            return Err(PluginError::new(400, "empty input: expected a name"));
        }
        Ok(Output::text(format!("{}, {name}!", self.settings.greeting)))
    }
}

export_plugin!(Greeter);

fn hello() -> String {
    "Hello".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotbay_plugin::testing::FakeHost;

    fn greet(config: serde_json::Value, name: &str) -> Result<String, PluginError> {
        let host = FakeHost::new();
        let greeter = host.start::<Greeter>(config)?;
        let output = greeter.execute(Payload::text(name))?;
        Ok(output.as_text()?.to_owned())
    }

    #[test]
    fn name_is_greeted() {
        assert_eq!(
            greet(serde_json::json!({}), "Ada\n").unwrap(),
            "Hello, Ada!"
        );
    }

    #[test]
    fn greeting_is_configurable() {
        let config = serde_json::json!({ "greeting": "Salut" });
        assert_eq!(greet(config, "Ada").unwrap(), "Salut, Ada!");
    }

    #[test]
    fn empty_name_is_rejected() {
        assert_eq!(greet(serde_json::json!({}), " ").unwrap_err().code(), 400);
    }
}
