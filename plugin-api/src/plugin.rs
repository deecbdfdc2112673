//! The trait that a plugin is, with its optional parts.

use crate::{CallContext, Config, HostServices, Output, Payload, PluginError, Snapshot};

/// A plugin: a value that the host starts once and calls from many threads.
///
/// Every method may panic: the panic is caught inside the plugin and reaches the host as a
/// fault with its message and location. All but [`execute`](Self::execute) run on threads that
/// the host made for this plugin alone.
pub trait Plugin: Send + Sync + Sized + 'static {
    /// Starts the plugin. `config` is the manifest's `config`, checked against `config_schema`.
    ///
    /// # Errors
    ///
    /// The author's; the plugin is then not loaded, and the message is told.
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError>;

    /// Answers one call. Called from many threads at once.
    ///
    /// # Errors
    ///
    /// The author's; it reaches the caller unchanged.
    fn execute(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError>;

    /// Checks what a JSON Schema cannot say. Runs before [`init`](Self::init).
    ///
    /// # Errors
    ///
    /// The author's; the plugin is then not started.
    fn validate_config(_config: &Config) -> Result<(), PluginError> {
        Ok(())
    }

    /// Says whether the plugin can work. Asked before a generation becomes current.
    ///
    /// # Errors
    ///
    /// The author's; a plugin that is not healthy is not promoted.
    fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }

    /// Gives the state that is to live through a reload.
    ///
    /// # Errors
    ///
    /// The author's; the reload is then rolled back.
    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        Ok(None)
    }

    /// Takes over the state of the generation before, after [`init`](Self::init) and before
    /// the first call.
    ///
    /// # Errors
    ///
    /// The author's; the reload is then rolled back. The default refuses every snapshot.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        let version = snapshot.version();
        let message =
            format!("does not restore state, and was given a snapshot of version {version}");
        Err(PluginError::new(PluginError::BAD_INPUT, message))
    }

    /// Ends the plugin. No call runs any more.
    ///
    /// # Errors
    ///
    /// The author's; it is told as an event.
    fn shutdown(self) -> Result<(), PluginError> {
        Ok(())
    }
}
