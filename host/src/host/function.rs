//! A function as a plugin.

use hotbay_plugin::{CallContext, Config, HostServices, Output, Payload, Plugin, PluginError};

/// A plugin made of a function.
pub(super) struct Function<F>(pub(super) F);

impl<F> Plugin for Function<F>
where
    F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
{
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Err(PluginError::new(500, "a function has no `init`"))
    }

    fn execute(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        (self.0)(ctx, input)
    }
}
