//! Returns its input.

use hotbay_plugin::prelude::*;
use hotbay_plugin::serve_plugin;

struct Echo;

impl Plugin for Echo {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::copy_of(input.as_bytes()))
    }
}

serve_plugin!(Echo);
