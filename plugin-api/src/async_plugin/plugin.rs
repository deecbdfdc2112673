//! The trait of plugins whose calls are futures.

use super::context::AsyncContext;
use crate::{Config, HostServices, Output, OwnedPayload, PluginError, Snapshot};

/// A plugin whose calls are futures: the async sibling of [`Plugin`](crate::Plugin).
///
/// A call runs as a task on the plugin's own tokio runtime, which is made at the first call and ends
/// with the plugin. `execute` of the host then occupies no worker, so many calls can wait at the same
/// time. `call` of the host blocks its thread until the task has finished. When the caller drops the
/// call, cancels it, or its deadline passes, the future is dropped at its next await.
///
/// Needs the feature `tokio`, and Unix. [`export_plugin!`](crate::export_plugin) exports it from a
/// library with `async` before the type, and [`serve_plugin!`](crate::serve_plugin) from a program,
/// where each call occupies a thread. A host registers [`Async<T>`](crate::Async).
///
/// All methods except `execute` run outside of the runtime, on threads that must not use tokio.
///
/// ```
/// use std::time::Duration;
///
/// use hotbay_plugin::prelude::*;
/// use hotbay_plugin::{Async, AsyncContext, AsyncPlugin, OwnedPayload};
///
/// struct Later;
///
/// impl AsyncPlugin for Later {
///     fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
///         Ok(Self)
///     }
///
///     async fn execute(&self, _: AsyncContext, input: OwnedPayload) -> Result<Output, PluginError> {
///         tokio::time::sleep(Duration::from_millis(1)).await;
///         Ok(Output::text(input.as_text()?.to_uppercase()))
///     }
/// }
///
/// # #[cfg(any())]
/// export_plugin!(async Later);
/// # #[cfg(feature = "testing")]
/// # {
/// // In a unit test of the plugin:
/// let plugin = hotbay_plugin::testing::FakeHost::new().start::<Async<Later>>(serde_json::json!({}))?;
/// assert_eq!(plugin.execute(Payload::text("a"))?.as_text()?, "A");
/// # }
/// # Ok::<(), PluginError>(())
/// ```
pub trait AsyncPlugin: Send + Sync + Sized + 'static {
    /// Starts the plugin; see [`Plugin::init`](crate::Plugin::init).
    ///
    /// # Errors
    ///
    /// Any error fails the load, which reports it.
    fn init(config: &Config, host: HostServices) -> Result<Self, PluginError>;

    /// Handles one call, as a task of the plugin's runtime.
    ///
    /// # Errors
    ///
    /// Any error reaches the caller unchanged.
    fn execute(
        &self,
        context: AsyncContext,
        input: OwnedPayload,
    ) -> impl Future<Output = Result<Output, PluginError>> + Send;

    /// Validates what a JSON Schema cannot express; see
    /// [`Plugin::validate_config`](crate::Plugin::validate_config).
    ///
    /// # Errors
    ///
    /// Any error fails the load.
    fn validate_config(_config: &Config) -> Result<(), PluginError> {
        Ok(())
    }

    /// Checks whether the plugin can work; see [`Plugin::health`](crate::Plugin::health).
    ///
    /// # Errors
    ///
    /// Any error means that the plugin is not healthy; a load or reload then fails.
    fn health(&self) -> Result<(), PluginError> {
        Ok(())
    }

    /// Returns the state that survives a reload, if any.
    ///
    /// # Errors
    ///
    /// Any error rolls the reload back.
    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        Ok(None)
    }

    /// Restores the state of the previous build; see [`Plugin::restore`](crate::Plugin::restore).
    ///
    /// # Errors
    ///
    /// Any error rolls the reload back. The default implementation rejects every snapshot.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), PluginError> {
        Err(snapshot.not_restored())
    }

    /// Shuts the plugin down. The futures of all calls were dropped.
    ///
    /// # Errors
    ///
    /// Any error is reported as an event of the host.
    fn shutdown(self) -> Result<(), PluginError> {
        Ok(())
    }
}
