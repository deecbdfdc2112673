//! Unloads plugins: one, or all at shutdown.

use std::time::{Duration, Instant};

use super::registry::UnloadScope;
use super::{Host, Inner, on_thread};
use crate::error::Error;
use crate::event::HostEvent;
use crate::generation::unload::{Outcome, unload};
use crate::id::{GenerationId, PluginName};
use crate::reload::LoaderContext;
use crate::slot::Slot;
use crate::sync::{after, deadline_in, lock};

/// The outcome of [`Host::unload`].
///
/// ```
/// # use hotbay::{Host, Output};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotbay::Error> {
/// let host = Host::builder().register_fn("one", |_, _| Ok(Output::text("1"))).build()?;
/// let report = host.unload("one").await?;
/// assert!(report.shutdown_error.is_none() && report.retain_reason.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct UnloadReport {
    /// The plugin.
    pub plugin: PluginName,
    /// The generation that was unloaded; `None` if none served.
    pub generation: Option<GenerationId>,
    /// The error, panic or timeout of the plugin's `shutdown`.
    pub shutdown_error: Option<Error>,
    /// Bytes that the plugin did not free; `None` if it does not count them or stays mapped.
    pub leaked_bytes: Option<i64>,
    /// The reason the library stays mapped; `None` if it was unmapped, or if there is no
    /// library.
    pub retain_reason: Option<String>,
}

/// A library that stays mapped after the unload of its plugin: see [`Host::retained`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetainedLibrary {
    /// The plugin.
    pub plugin: PluginName,
    /// The generation; `None` if it never served.
    pub generation: Option<GenerationId>,
    /// The reason it stays mapped.
    pub reason: String,
}

impl Host {
    /// Unloads a plugin: it gets no new calls, running calls may finish, then it shuts down and its
    /// library is unmapped.
    ///
    /// Queued calls fail with `Retired`. The outcome is also emitted as an event, `Closed` or
    /// `Kept`.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Requires` if other plugins require it; `Shutdown`. An error of the plugin's own shutdown is
    /// in the report, since the plugin is unloaded all the same.
    pub async fn unload(&self, name: &str) -> Result<UnloadReport, Error> {
        self.unload_in(name, UnloadScope::Any).await
    }

    pub(super) async fn unload_in(
        &self,
        name: &str,
        scope: UnloadScope,
    ) -> Result<UnloadReport, Error> {
        self.check_process()?;
        let host = self.clone();
        let name = name.to_owned();
        on_thread("hotbay-unload", move || host.inner.unload(&name, scope)).await?
    }

    /// Returns the libraries that stay mapped after the unload of their plugins.
    pub fn retained(&self) -> Vec<RetainedLibrary> {
        if self.check_process().is_err() {
            return Vec::new();
        }
        let retained = self.inner.context.deferred_unloads.list().into_iter();
        let library = |(plugin, generation, reason)| RetainedLibrary { plugin, generation, reason };
        retained.map(library).collect()
    }

    /// Unloads all plugins, in the reverse order of `requires`.
    ///
    /// New calls fail with `Shutdown`. Running and queued calls have `grace` to finish. After that,
    /// queued calls fail with `Shutdown`, and a plugin whose calls still run stays mapped, with an
    /// event. Loads, reloads and unloads that run are waited for until
    /// [`stop_timeout`](crate::HostLimits::stop_timeout) after `grace`, unless `grace` is zero. It may
    /// be called again, even concurrently: each call completes when the shutdown has.
    pub async fn shutdown(&self, grace: Duration) {
        if self.check_process().is_err() {
            return;
        }
        let host = self.clone();
        let done = on_thread("hotbay-shutdown", move || host.inner.shutdown(grace)).await;
        if done.is_err() {
            // No thread is available, so this one is blocked.
            self.inner.shutdown(grace);
        }
    }
}

impl Inner {
    pub(super) fn unload(&self, name: &str, scope: UnloadScope) -> Result<UnloadReport, Error> {
        // Counted first, so that a shutdown that does not find the plugin waits for its unload.
        let _running = self.unloads.start();
        let unloading = self.registry.begin_unload(name, scope)?;
        let slot = unloading.slot();
        let (generation, outcome) = self.end(slot, self.context.limits.drain_timeout);
        // A reload in progress ends its own build. The name is free after that.
        let timeout = self.context.limits.start_timeout;
        self.reload_queue.wait(&slot.name, deadline_in(timeout));
        let Outcome { shutdown_error, leaked_bytes, retain_reason } = outcome;
        let plugin = slot.name.clone();
        Ok(UnloadReport { plugin, generation, shutdown_error, leaked_bytes, retain_reason })
    }

    pub(super) fn shutdown(&self, grace: Duration) {
        let deadline = deadline_in(grace);
        // Joined before anything is locked: the watch may wait for the same locks.
        let watch = lock(&self.watch).take();
        drop(watch);
        let Some(leaving) = self.registry.close() else {
            return self.registry.shutdown.wait();
        };
        // Opens after a panic too, so that no thread waits forever.
        let _opens = self.registry.shutdown.open_on_drop();
        for slot in &leaving {
            slot.begin_shutdown();
        }
        if !grace.is_zero() {
            for slot in &leaving {
                slot.drain_queue(deadline);
            }
            // They may need the plugins that they require.
            self.unloads.wait_idle(after(deadline, self.context.limits.stop_timeout));
        }
        for slot in leaving {
            self.end(&slot, deadline.saturating_duration_since(Instant::now()));
        }
        if !grace.is_zero() {
            let stop_timeout = self.context.limits.stop_timeout;
            self.background.wait_idle(after(deadline, stop_timeout));
        }
        self.context.events.emit(HostEvent::Stopped);
    }

    pub(super) fn end(
        &self,
        slot: &Slot,
        drain_timeout: Duration,
    ) -> (Option<GenerationId>, Outcome) {
        let Some(generation) = slot.vacate() else { return (None, Outcome::default()) };
        let LoaderContext { limits, deferred_unloads, .. } = &*self.context;
        (Some(generation.id), unload(&generation, drain_timeout, limits, deferred_unloads))
    }
}
