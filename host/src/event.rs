//! The events of a host: what happens in it, for any number of readers. The host never waits for a
//! reader; one that lags behind receives [`HostEvent::Missed`].

use std::fmt;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{FutureExt as _, StreamExt, stream};
use hotbay_plugin::Fault;
use hotbay_plugin::text::{Lines, escaped};
use semver::Version;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::error::LoadStep;
use crate::id::{GenerationId, PluginName};
use crate::panic::catch_panic;
use crate::sync::SameProcess;

/// An event in a host.
///
/// `Display` prints a line for people, as `hotbay run` does. With the feature `serde`, an event
/// serializes as `hotbay run --json` prints it: an object whose `event` is
/// [`name`](Self::name).
///
/// ```
/// use hotbay::{Host, HostEvent, Output};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotbay::Error> {
/// let host = Host::builder().build()?;
/// let mut events = host.events();
/// host.register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes()))).await?;
/// let event = events.next().await.expect("an event");
/// assert!(matches!(&event, HostEvent::Loaded { plugin, .. } if plugin.as_str() == "echo"));
/// assert_eq!((event.name(), event.plugin()), ("loaded", Some("echo")));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(tag = "event", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HostEvent {
    /// A plugin was loaded and serves calls.
    Loaded {
        /// The plugin.
        plugin: PluginName,
        /// The version of the build.
        version: Version,
        /// The generation that serves.
        generation: GenerationId,
    },
    /// A plugin failed to load.
    Refused {
        /// The plugin, or its folder if its manifest could not be read.
        plugin: String,
        /// The reason.
        reason: String,
        /// Advice on how to fix it.
        hint: Option<String>,
    },
    /// A new build serves calls.
    Promoted {
        /// The plugin.
        plugin: PluginName,
        /// The version of the build.
        version: Version,
        /// The generation that serves now.
        generation: GenerationId,
        /// The generation that served before and now drains. `None` if it was stopped first.
        from: Option<GenerationId>,
    },
    /// A reload failed.
    RolledBack {
        /// The plugin.
        plugin: PluginName,
        /// The generation that keeps serving. `None` if none serves.
        generation: Option<GenerationId>,
        /// The step that failed.
        #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::displayed"))]
        step: Option<LoadStep>,
        /// The reason.
        reason: String,
        /// Advice on how to fix it.
        hint: Option<String>,
    },
    /// A plugin panicked.
    Faulted {
        /// The plugin.
        plugin: PluginName,
        /// The generation that panicked.
        generation: GenerationId,
        /// The panic.
        #[cfg_attr(feature = "serde", serde(flatten, serialize_with = "serialize::fault"))]
        fault: Fault,
        /// Whether it happened on a thread that the plugin started.
        own_thread: bool,
    },
    /// The host stopped calling a plugin for a while.
    Quarantined {
        /// The plugin.
        plugin: PluginName,
        /// The reason.
        #[cfg_attr(feature = "serde", serde(serialize_with = "serialize::displayed_one"))]
        reason: QuarantineReason,
        /// The time until the next probe. `None` if the plugin is called again as soon as the
        /// reason is gone.
        #[cfg_attr(
            feature = "serde",
            serde(rename = "probe_in_ms", serialize_with = "serialize::optional_ms")
        )]
        probe_in: Option<Duration>,
    },
    /// The quarantine of a plugin ended.
    Restored {
        /// The plugin.
        plugin: PluginName,
    },
    /// A generation receives no more calls.
    Retired {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
    },
    /// The library of a generation was unmapped, or the generation had none.
    Closed {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// Bytes that the plugin did not release. `None` if it does not count them.
        leaked_bytes: Option<i64>,
    },
    /// The library of a generation stays mapped.
    Kept {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// The reason.
        reason: String,
    },
    /// The process of a plugin exited, and the host had not stopped it.
    ChildExited {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// The process id.
        pid: u32,
        /// The way it ended, such as `exit code 1` or `killed by SIGKILL`, the cause if the host
        /// knows it, and its last lines of output.
        reason: String,
        /// Advice on how to fix the cause.
        hint: Option<String>,
    },
    /// A plugin was started, and this machine does not enforce its sandbox completely.
    ConfinementIncomplete {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// The rules that are not enforced, each with the reason.
        rules: Vec<String>,
    },
    /// The process of a plugin listens at an address that other machines may reach. The host calls
    /// it over loopback.
    ListensBeyondLoopback {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// The process id.
        pid: u32,
        /// The address.
        address: SocketAddr,
    },
    /// The host restarted the process of a plugin.
    Restarted {
        /// The plugin.
        plugin: PluginName,
        /// The generation, which is the same.
        generation: GenerationId,
        /// The id of the new process.
        pid: u32,
        /// The time since the previous process exited.
        #[cfg_attr(
            feature = "serde",
            serde(rename = "after_ms", serialize_with = "serialize::ms")
        )]
        after: Duration,
    },
    /// A different provider of a contract is called first from now on: see
    /// [`Providers`](crate::Providers).
    ProviderChosen {
        /// The contract, as the caller named it.
        contract: String,
        /// The plugin that is called first.
        plugin: PluginName,
        /// The plugins that are tried after it, in their order.
        others: Vec<PluginName>,
    },
    /// The shutdown of a plugin failed.
    ShutdownFailed {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// The reason.
        reason: String,
        /// Advice on how to fix it.
        hint: Option<String>,
    },
    /// The changed configuration file of the host was read, and what can be changed while the host runs
    /// was applied. Plugins that failed to follow have their own events.
    ConfigChanged {
        /// The values that were applied, as paths such as `plugins.storage.config.file`.
        applied: Vec<String>,
        /// The values that apply after a restart.
        needs_restart: Vec<String>,
        /// The plugins that failed to follow, and keep their previous settings.
        failed: Vec<PluginName>,
    },
    /// The changed configuration file of the host is invalid, so nothing of it was applied.
    ConfigRejected {
        /// The mistakes.
        reason: String,
        /// Advice on how to fix them.
        hint: Option<String>,
    },
    /// The host stopped.
    Stopped,
    /// This reader was too slow and missed events.
    Missed {
        /// The number of events.
        events: u64,
    },
}

impl HostEvent {
    /// Returns the name of the event in snake case, such as `rolled_back`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loaded { .. } => "loaded",
            Self::Refused { .. } => "refused",
            Self::Promoted { .. } => "promoted",
            Self::RolledBack { .. } => "rolled_back",
            Self::Faulted { .. } => "faulted",
            Self::Quarantined { .. } => "quarantined",
            Self::Restored { .. } => "restored",
            Self::Retired { .. } => "retired",
            Self::Closed { .. } => "closed",
            Self::Kept { .. } => "kept",
            Self::ChildExited { .. } => "child_exited",
            Self::ConfinementIncomplete { .. } => "confinement_incomplete",
            Self::ListensBeyondLoopback { .. } => "listens_beyond_loopback",
            Self::Restarted { .. } => "restarted",
            Self::ProviderChosen { .. } => "provider_chosen",
            Self::ShutdownFailed { .. } => "shutdown_failed",
            Self::ConfigChanged { .. } => "config_changed",
            Self::ConfigRejected { .. } => "config_rejected",
            Self::Stopped => "stopped",
            Self::Missed { .. } => "missed",
        }
    }

    /// Returns the name of the plugin that the event is about.
    pub fn plugin(&self) -> Option<&str> {
        match self {
            Self::Refused { plugin, .. } => Some(plugin),
            Self::Loaded { plugin, .. }
            | Self::Promoted { plugin, .. }
            | Self::RolledBack { plugin, .. }
            | Self::Faulted { plugin, .. }
            | Self::Quarantined { plugin, .. }
            | Self::Restored { plugin }
            | Self::Retired { plugin, .. }
            | Self::Closed { plugin, .. }
            | Self::Kept { plugin, .. }
            | Self::ChildExited { plugin, .. }
            | Self::ConfinementIncomplete { plugin, .. }
            | Self::ListensBeyondLoopback { plugin, .. }
            | Self::Restarted { plugin, .. }
            | Self::ProviderChosen { plugin, .. }
            | Self::ShutdownFailed { plugin, .. } => Some(plugin.as_str()),
            Self::ConfigChanged { .. }
            | Self::ConfigRejected { .. }
            | Self::Stopped
            | Self::Missed { .. } => None,
        }
    }

    fn fmt_detail(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| escaped(text, Lines::Many).into_owned();
        match self {
            Self::Loaded { version, generation, .. } => {
                write!(f, "version {version}, generation {generation}")
            }
            Self::Refused { plugin, reason, hint } => {
                f.write_str(&shown(without_plugin(reason, plugin)))?;
                fmt_hint(f, hint.as_deref())
            }
            Self::Promoted { version, generation, from: Some(from), .. } => {
                write!(f, "version {version}, generation {generation} (was {from})")
            }
            Self::Promoted { version, generation, from: None, .. } => {
                write!(
                    f,
                    "version {version}, generation {generation} (the old one was stopped \
                    first)"
                )
            }
            Self::RolledBack { plugin, generation, step, reason, hint } => {
                match generation {
                    Some(generation) => write!(f, "generation {generation} keeps serving")?,
                    None => f.write_str("no generation is serving")?,
                }
                if let Some(step) = step {
                    write!(f, "; failed at step `{step}`")?;
                }
                // The text before it repeats the line above.
                let why = reason.split_once(" keeps serving): ").map(|(_, why)| why);
                let why = why.unwrap_or_else(|| without_plugin(reason, plugin.as_str()));
                write!(f, "\n{}", shown(why))?;
                fmt_hint(f, hint.as_deref())
            }
            Self::Faulted { generation, fault, own_thread, .. } => {
                let place = if *own_thread { ", on a thread that it started" } else { "" };
                write!(f, "generation {generation}{place}\n{fault}")
            }
            Self::Quarantined { reason, probe_in: Some(wait), .. } => {
                write!(f, "{reason}; next probe in {} ms", wait.as_millis())
            }
            Self::Quarantined { reason, probe_in: None, .. } => write!(f, "{reason}"),
            Self::Restored { .. } => f.write_str("serves calls again"),
            Self::Retired { generation, .. } => write!(f, "generation {generation}"),
            Self::Closed { generation, leaked_bytes: Some(bytes @ 1..), .. } => {
                write!(f, "generation {generation}; {bytes} bytes were not released")
            }
            Self::Closed { generation, .. } => write!(f, "generation {generation}"),
            Self::Kept { generation, reason, .. } => {
                write!(f, "generation {generation}: {}", shown(reason))
            }
            Self::ShutdownFailed { generation, reason, hint, .. } => {
                write!(f, "generation {generation}: {}", shown(reason))?;
                fmt_hint(f, hint.as_deref())
            }
            Self::ChildExited { generation, pid, reason, hint, .. } => {
                write!(f, "generation {generation}, process {pid}\n{}", shown(reason))?;
                fmt_hint(f, hint.as_deref())
            }
            Self::ConfinementIncomplete { generation, rules, .. } => {
                write!(f, "generation {generation}\n{}", shown(&rules.join("\n")))
            }
            Self::ListensBeyondLoopback { generation, pid, address, .. } => write!(
                f,
                "generation {generation}, process {pid}\nit listens on {address}, which other \
                 machines may be able to reach"
            ),
            Self::Restarted { generation, pid, after, .. } => {
                let ms = after.as_millis();
                write!(f, "generation {generation}, process {pid}, after {ms} ms")
            }
            Self::ProviderChosen { contract, others, .. } => {
                write!(f, "called first for contract `{}`", escaped(contract, Lines::One))?;
                for (at, other) in others.iter().enumerate() {
                    write!(f, "{} `{other}`", if at == 0 { ", then" } else { "," })?;
                }
                Ok(())
            }
            Self::ConfigChanged { applied, needs_restart, failed } => {
                let listed = |paths: &[String]| {
                    let paths = paths.iter().map(|path| format!("`{}`", escaped(path, Lines::One)));
                    paths.collect::<Vec<_>>().join(", ")
                };
                let failed: Vec<_> = failed.iter().map(ToString::to_string).collect();
                let parts = [
                    ("applied ", &applied[..]),
                    ("applies after a restart: ", needs_restart),
                    ("not followed by ", &failed),
                ];
                let parts = parts.into_iter().filter(|(_, paths)| !paths.is_empty());
                let parts: Vec<_> =
                    parts.map(|(what, paths)| format!("{what}{}", listed(paths))).collect();
                f.write_str(&parts.join("; "))
            }
            Self::ConfigRejected { reason, hint } => {
                f.write_str(&shown(reason))?;
                fmt_hint(f, hint.as_deref())
            }
            Self::Stopped => Ok(()),
            Self::Missed { events: 1 } => {
                f.write_str("1 event, which was emitted faster than it was read")
            }
            Self::Missed { events } => {
                write!(f, "{events} events, which were emitted faster than they were read")
            }
        }
    }
}

impl fmt::Display for HostEvent {
    /// Prints the name of the event, the plugin and details. Causes follow on further lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace('_', " "))?;
        if let Some(plugin) = self.plugin() {
            write!(f, " {}: ", escaped(plugin, Lines::One))?;
        } else if !matches!(self, Self::Stopped) {
            f.write_str(": ")?;
        }
        self.fmt_detail(f)
    }
}

fn fmt_hint(f: &mut fmt::Formatter<'_>, hint: Option<&str>) -> fmt::Result {
    hint.map_or(Ok(()), |hint| write!(f, "\nhint: {}", escaped(hint, Lines::One)))
}

/// Returns a reason without the plugin's name at its start.
fn without_plugin<'a>(reason: &'a str, plugin: &str) -> &'a str {
    reason.strip_prefix(&format!("plugin `{plugin}` ")).unwrap_or(reason)
}

/// The reason a plugin is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuarantineReason {
    /// It panicked or exceeded deadlines too often.
    Faults {
        /// The number of faults within the window.
        faults: u32,
    },
    /// Abandoned calls occupy as many of its workers as the host replaces.
    Stuck {
        /// The number of calls that have not returned.
        calls: usize,
    },
    /// It uses more memory than `limits.memory_bytes` or the host's limit allows.
    Memory {
        /// Bytes that it has allocated and not released.
        live_bytes: i64,
        /// The limit.
        limit_bytes: u64,
    },
}

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faults { faults: 1 } => f.write_str("1 fault"),
            Self::Faults { faults } => write!(f, "{faults} faults"),
            Self::Stuck { calls: 1 } => {
                f.write_str("1 call exceeded its deadline and is still running")
            }
            Self::Stuck { calls } => {
                write!(f, "{calls} calls exceeded their deadlines and are still running")
            }
            Self::Memory { live_bytes, limit_bytes } => {
                write!(
                    f,
                    "{live_bytes} bytes of memory are in use; the limit is {limit_bytes} \
                     (`limits.memory_bytes`, or the host's `max_memory_bytes`)"
                )
            }
        }
    }
}

/// Events that a reader may lag behind.
const MAX_EVENTS: usize = 1024;

/// Keeps the bus open. Readers see the end of the stream when it is dropped.
#[derive(Debug)]
pub(crate) struct EventBusOwner {
    _sender: broadcast::Sender<HostEvent>,
}

/// Emits events. May outlive the host.
#[derive(Clone, Debug)]
pub(crate) struct EventBus {
    sender: broadcast::WeakSender<HostEvent>,
}

impl EventBus {
    pub(crate) fn new() -> (EventBusOwner, Self) {
        let sender = broadcast::Sender::new(MAX_EVENTS);
        let bus = Self { sender: sender.downgrade() };
        (EventBusOwner { _sender: sender }, bus)
    }

    pub(crate) fn emit(&self, event: HostEvent) {
        let send = || {
            tracing::debug!(?event, "host event");
            if let Some(sender) = self.sender.upgrade() {
                // An error means that there is no reader.
                let _ = sender.send(event);
            }
        };
        // Subscribers and wakers of the application run in here and may panic.
        drop(catch_panic(send));
    }

    pub(crate) fn subscribe(&self) -> Events {
        let sender = self.sender.upgrade();
        let sender = sender.unwrap_or_else(|| broadcast::Sender::new(1));
        let events = stream::unfold(sender.subscribe(), async |mut receiver| {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(events)) => HostEvent::Missed { events },
                Err(RecvError::Closed) => return None,
            };
            Some((event, receiver))
        });
        Events { stream: SameProcess::new(Box::pin(events.fuse())) }
    }
}

/// A stream of the events of a host, starting with its creation by
/// [`Host::events`](crate::Host::events).
///
/// The stream ends when the host is gone. A reader that lags more than 1,024 events behind loses
/// the oldest ones and receives [`HostEvent::Missed`]. The stream runs on any executor and is empty
/// in a process that was forked after its creation.
///
/// ```
/// use hotbay::{Host, HostEvent, Output};
///
/// let host = Host::builder()
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// let mut events = host.events();
/// drop(host);
/// while let Some(event) = events.next_blocking() {
///     println!("{event}");
///     if let HostEvent::Retired { plugin, .. } = event {
///         assert_eq!(plugin.as_str(), "echo");
///     }
/// }
/// # Ok::<(), hotbay::Error>(())
/// ```
pub struct Events {
    stream: SameProcess<Pin<Box<dyn Stream<Item = HostEvent> + Send + Sync>>>,
}

impl Events {
    /// Waits for the next event. Returns `None` once the host is gone.
    pub async fn next(&mut self) -> Option<HostEvent> {
        StreamExt::next(self).await
    }

    /// Blocks the current thread until the next event. Returns `None` once the host is gone.
    pub fn next_blocking(&mut self) -> Option<HostEvent> {
        crate::sync::block_on(pin!(self.next()))
    }

    /// Returns the next event, or `None` if none is ready.
    pub fn try_next(&mut self) -> Option<HostEvent> {
        self.next().now_or_never().flatten()
    }
}

impl Stream for Events {
    type Item = HostEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<HostEvent>> {
        if !self.stream.is_current() {
            return Poll::Ready(None);
        }
        self.stream.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

#[cfg(feature = "serde")]
mod serialize {
    //! Serializes the fields of events.

    use std::fmt::Display;
    use std::time::Duration;

    use hotbay_plugin::Fault;
    use serde::ser::{Serialize, SerializeMap as _, Serializer};

    pub(super) fn displayed<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn displayed_one<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn ms<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(value.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(super) fn optional_ms<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let ms = value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
        ms.serialize(serializer)
    }

    pub(super) fn fault<S: Serializer>(fault: &Fault, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("message", fault.message())?;
        map.serialize_entry("location", &fault.location())?;
        map.end()
    }
}
