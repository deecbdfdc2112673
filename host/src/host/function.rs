//! A function as a plugin: for tests and glue.

use hotbay_plugin::{CallContext, Config, HostServices, Output, Payload, Plugin, PluginError};

/// A plugin that is nothing but a function.
pub(super) struct Function<F>(pub(super) F);

impl<F> Plugin for Function<F>
where
    F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
{
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Err(PluginError::new(500, "a function is made by its program, not started by a host"))
    }

    fn execute(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        (self.0)(ctx, input)
    }
}
