//! The notice board: what happens in a host, as it happens.
//! Nobody waits for a reader; one that is too slow is told how much it missed.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hotbay_plugin::Fault;
use semver::Version;
use tokio::sync::broadcast;

use crate::error::LoadStep;
use crate::id::{GenerationId, PluginName};
use crate::panic::fault_of;
use crate::sync::SameProcess;

/// Something that happened in a host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HostEvent {
    /// A plugin was loaded and serves.
    Loaded {
        /// The plugin.
        plugin: PluginName,
        /// The version of its build.
        version: Version,
        /// The generation that serves.
        generation: GenerationId,
    },
    /// A plugin was not loaded.
    Refused {
        /// The plugin, as far as its manifest could be read; otherwise its folder.
        plugin: String,
        /// Why, in one line.
        reason: String,
    },
    /// A new build serves.
    Promoted {
        /// The plugin.
        plugin: PluginName,
        /// The version of the build.
        version: Version,
        /// The generation that serves now.
        generation: GenerationId,
        /// The generation that served before and drains; none where it was stopped first.
        from: Option<GenerationId>,
    },
    /// A new build does not serve.
    RolledBack {
        /// The plugin.
        plugin: PluginName,
        /// The generation that goes on serving; none if nothing serves any more.
        generation: Option<GenerationId>,
        /// The step that failed.
        step: Option<LoadStep>,
        /// Why, in one line.
        reason: String,
    },
    /// A plugin panicked.
    Faulted {
        /// The plugin.
        plugin: PluginName,
        /// The generation that it happened in.
        generation: GenerationId,
        /// The panic.
        fault: Fault,
        /// Whether it was on a thread that the plugin had started.
        own_thread: bool,
    },
    /// A plugin is not called for a while.
    Quarantined {
        /// The plugin.
        plugin: PluginName,
        /// What is held against it.
        reason: QuarantineReason,
        /// Milliseconds until the next probe; none where it is not probed, but called again as
        /// soon as the reason is gone.
        probe_in_ms: Option<u64>,
    },
    /// A quarantined plugin is called again.
    Restored {
        /// The plugin.
        plugin: PluginName,
    },
    /// A generation gets no more calls.
    Retired {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
    },
    /// A generation's library is unmapped, or the generation had none.
    Closed {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// Bytes that the plugin had not released; none where it does not count.
        leaked_bytes: Option<i64>,
    },
    /// A generation's library stays mapped.
    Kept {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// Why.
        reason: String,
    },
    /// The process of a plugin ended though nobody had ended it.
    ChildExited {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// The process.
        pid: u32,
        /// How it ended: `exit code 1`, `killed by SIGKILL`; what to do about it, where that is
        /// known; and the last lines that it wrote.
        reason: String,
    },
    /// The process of a plugin listens at an address that other machines may reach; the host
    /// calls it over loopback all the same.
    ListensBeyondLoopback {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// The process.
        pid: u32,
        /// The address.
        address: SocketAddr,
    },
    /// The process of a plugin was started again.
    Restarted {
        /// The plugin.
        plugin: PluginName,
        /// The generation, which is the same.
        generation: GenerationId,
        /// The new process.
        pid: u32,
        /// Milliseconds since the one before had ended.
        after_ms: u64,
    },
    /// Of the plugins that provide a contract, another one is called first from now on, or one
    /// at all: see [`Providers`](crate::Providers).
    ProviderChosen {
        /// The contract, as the caller named it.
        contract: String,
        /// The plugin that is called first.
        plugin: PluginName,
        /// Those that are tried after it, in their order.
        others: Vec<PluginName>,
    },
    /// A plugin's shutdown failed.
    ShutdownFailed {
        /// The plugin.
        plugin: PluginName,
        /// The generation.
        generation: GenerationId,
        /// Why, in one line.
        reason: String,
    },
    /// The host has stopped.
    Stopped,
    /// This reader was too slow and missed some events.
    Missed {
        /// How many.
        events: u64,
    },
}

/// Why a plugin is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuarantineReason {
    /// It panicked, or did not answer in time, too often.
    Faults {
        /// How often within the window.
        faults: u32,
    },
    /// Calls that nobody waits for any more hold as many of its workers as are replaced.
    Stuck {
        /// Calls that have not returned.
        calls: usize,
    },
    /// It holds more memory than it may: `limits.memory_bytes`, or the host's limit.
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
            Self::Faults { faults } => write!(f, "{faults} faults"),
            Self::Stuck { calls } => {
                write!(f, "{calls} calls passed their deadlines and still run")
            }
            Self::Memory { live_bytes, limit_bytes } => {
                write!(
                    f,
                    "taking {live_bytes} bytes of memory, more than {limit_bytes} \
                     (`limits.memory_bytes`, or the host's `max_memory_bytes`); it is called again \
                     once it has released some, or after a reload"
                )
            }
        }
    }
}

/// Events kept for a reader that lags.
const EVENTS_MAX: usize = 1024;

/// Keeps the board up; readers hear the end when it is dropped.
#[derive(Debug)]
pub(crate) struct EventBusOwner {
    _sender: broadcast::Sender<HostEvent>,
}

/// Where events are told, by whoever may outlive the host.
#[derive(Clone, Debug)]
pub(crate) struct EventBus {
    sender: broadcast::WeakSender<HostEvent>,
}

impl EventBus {
    pub(crate) fn new() -> (EventBusOwner, Self) {
        let sender = broadcast::Sender::new(EVENTS_MAX);
        let board = Self { sender: sender.downgrade() };
        (EventBusOwner { _sender: sender }, board)
    }

    pub(crate) fn emit(&self, event: HostEvent) {
        // Whoever listens may have code of the application behind it: what panics there stops
        // nothing of what is told.
        let tell = || {
            tracing::debug!(?event, "host event");
            if let Some(sender) = self.sender.upgrade() {
                // Nobody has to listen.
                let _ = sender.send(event);
            }
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(tell)) {
            drop(fault_of(payload));
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        let sender = self.sender.upgrade();
        let sender = sender.unwrap_or_else(|| broadcast::Sender::new(1));
        Events { receiver: SameProcess::new(sender.subscribe()) }
    }
}

/// The events of a host from one moment on. There are none in a process that was forked since.
#[derive(Debug)]
pub struct Events {
    receiver: SameProcess<broadcast::Receiver<HostEvent>>,
}

impl Events {
    /// Waits for the next event; none once the host is gone. Runs on any executor.
    pub async fn next(&mut self) -> Option<HostEvent> {
        if !self.receiver.is_current() {
            return None;
        }
        Self::seen(self.receiver.recv().await)
    }

    /// Waits for the next event on this thread; none once the host is gone.
    ///
    /// # Panics
    ///
    /// Inside an asynchronous runtime of tokio, whose thread it would block.
    pub fn next_blocking(&mut self) -> Option<HostEvent> {
        if !self.receiver.is_current() {
            return None;
        }
        Self::seen(self.receiver.blocking_recv())
    }

    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<HostEvent> {
        if !self.receiver.is_current() {
            return None;
        }
        match self.receiver.try_recv() {
            Ok(event) => Some(event),
            Err(broadcast::error::TryRecvError::Lagged(events)) => {
                Some(HostEvent::Missed { events })
            }
            Err(_) => None,
        }
    }

    fn seen(received: Result<HostEvent, broadcast::error::RecvError>) -> Option<HostEvent> {
        match received {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(events)) => Some(HostEvent::Missed { events }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
