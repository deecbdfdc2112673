//! Repeats its input, and panics on a word: to see what a host does about a plugin that fails.

#![forbid(unsafe_code)]

use hotbay_plugin::prelude::*;

/// The plugin: an echo with a sore point.
#[derive(Debug)]
pub struct Fragile {
    panics_on: String,
}

impl Plugin for Fragile {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        let panics_on = config.get("panics_on").and_then(|word| word.as_str()).unwrap_or("boom");
        Ok(Self { panics_on: panics_on.to_owned() })
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        let text = input.as_text()?;
        assert!(!text.contains(&self.panics_on), "somebody said `{}`", self.panics_on);
        Ok(Output::text(text))
    }
}

export_plugin!(Fragile);

#[cfg(test)]
mod tests {
    use super::*;
    use hotbay_plugin::testing::FakeHost;
    use serde_json::json;

    #[test]
    fn it_repeats_what_does_not_hurt() {
        let started = FakeHost::new().start::<Fragile>(json!({})).unwrap();
        assert_eq!(started.execute(Payload::text("hello")).unwrap().as_text().unwrap(), "hello");
    }

    #[test]
    #[should_panic(expected = "somebody said `ouch`")]
    fn it_panics_on_its_word() {
        let started = FakeHost::new().start::<Fragile>(json!({ "panics_on": "ouch" })).unwrap();
        let _ = started.execute(Payload::text("say ouch"));
    }
}
