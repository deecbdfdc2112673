//! The plugin `fragile`: returns its input, and panics on a word, to demonstrate how a host handles
//! faults.

#![forbid(unsafe_code)]

use hotbay_plugin::prelude::*;

/// Returns its input unless it contains the word to panic on.
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
        assert!(!text.contains(&self.panics_on), "the input contains `{}`", self.panics_on);
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
    fn input_without_the_word_is_returned() {
        let plugin = FakeHost::new().start::<Fragile>(json!({})).unwrap();
        assert_eq!(plugin.execute(Payload::text("hello")).unwrap().as_text().unwrap(), "hello");
    }

    #[test]
    #[should_panic(expected = "the input contains `ouch`")]
    fn input_with_the_word_panics() {
        let plugin = FakeHost::new().start::<Fragile>(json!({ "panics_on": "ouch" })).unwrap();
        let _ = plugin.execute(Payload::text("say ouch"));
    }
}
