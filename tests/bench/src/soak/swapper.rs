//! Swaps two builds in turn, and keeps the books of what became of those that were replaced.
//! Waits for events only, never for time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hotbay::{Events, Host, HostEvent, Reloaded};
use tokio::runtime::Runtime;

use crate::builds::Builds;

/// Generations that may still be on their way out when the next is begun.
const MAX_OPEN: usize = 3;
/// Something is wrong if nothing is told for so long.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A host with one plugin whose builds are swapped.
pub(crate) struct Swapper<'a> {
    pub(crate) host: Host,
    builds: &'a Builds,
    name: String,
    runtime: Runtime,
    events: Events,
    which: usize,
    pub(crate) stats: CallStats,
}

/// What became of the generations that were replaced.
#[derive(Debug, Default)]
pub(crate) struct CallStats {
    open: BTreeSet<u64>,
    /// Those that stay mapped, and why.
    pub(crate) kept: BTreeMap<u64, String>,
    /// How many were told as kept, at first.
    pub(crate) kept_at_first: u64,
    pub(crate) closed: u64,
    pub(crate) leaked_bytes: i64,
    pub(crate) odd: Vec<String>,
}

impl<'a> Swapper<'a> {
    /// Loads what is in place.
    pub(crate) fn new(host: Host, builds: &'a Builds) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let events = host.events();
        let handle = runtime.block_on(host.load(&builds.folder))?;
        let (name, stats) = (handle.name().to_string(), CallStats::default());
        Ok(Self { host, builds, name, runtime, events, which: 0, stats })
    }

    /// Puts the other build into place and has it promoted; waits until few are on their way out.
    pub(crate) fn swap(&mut self) -> anyhow::Result<()> {
        self.which = 1 - self.which;
        self.builds.put(self.which)?;
        let reloaded = self.runtime.block_on(self.host.reload(&self.name));
        let reloaded = reloaded.map_err(|error| anyhow::anyhow!(error.full_message()))?;
        ensure!(matches!(reloaded, Reloaded::Promoted(_)), "a swap came to {reloaded:?}");
        while let Some(event) = self.events.try_next() {
            self.stats.note(event);
        }
        self.settle(MAX_OPEN)
    }

    /// Waits until at most so many of the replaced generations are on their way out.
    pub(crate) fn settle(&mut self, max_open: usize) -> anyhow::Result<()> {
        while self.stats.open.len() > max_open {
            self.hear()?;
        }
        Ok(())
    }

    /// Waits until those that were kept for a while are closed as well.
    pub(crate) fn settle_kept(&mut self) -> anyhow::Result<()> {
        self.settle(0)?;
        while !self.stats.kept.is_empty() && !self.host.retained().is_empty() {
            if self.hear().is_err() {
                break;
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> anyhow::Result<()> {
        let events = &mut self.events;
        let next = async { tokio::time::timeout(EVENT_TIMEOUT, events.next()).await };
        let event = self.runtime.block_on(next).with_context(|| {
            let stats = &self.stats;
            format!("nothing was told of generations {:?}, kept {:?}", stats.open, stats.kept)
        })?;
        self.stats.note(event.context("the host is gone")?);
        Ok(())
    }

    /// Ends the host.
    pub(crate) fn end(self) {
        self.runtime.block_on(self.host.shutdown(Duration::from_secs(5)));
    }
}

impl CallStats {
    fn note(&mut self, event: HostEvent) {
        match event {
            HostEvent::Promoted { from: Some(from), .. } => {
                self.open.insert(from.get());
            }
            HostEvent::Closed { generation, leaked_bytes, .. } => {
                self.open.remove(&generation.get());
                self.kept.remove(&generation.get());
                self.closed += 1;
                self.leaked_bytes += leaked_bytes.unwrap_or(0);
            }
            HostEvent::Kept { generation, reason, .. } => {
                self.open.remove(&generation.get());
                self.kept_at_first += 1;
                self.kept.insert(generation.get(), reason);
            }
            HostEvent::Loaded { .. } | HostEvent::Retired { .. } | HostEvent::Stopped => {}
            other => self.odd.push(format!("{other:?}")),
        }
    }

    /// Nothing happened besides swaps.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(odd) = self.odd.first() {
            bail!("{} events of other kinds, the first {odd}", self.odd.len());
        }
        Ok(())
    }
}

/// A runtime for the futures of one thread.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}
