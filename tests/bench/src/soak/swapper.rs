//! Alternates between two builds, and records what happened to those that were replaced. Waits only
//! for events, never for time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hotbay::{Events, Host, HostEvent, Reloaded};
use tokio::runtime::Runtime;

use crate::builds::Builds;

/// Maximum number of replaced generations that are still closing when the next swap starts.
const MAX_OPEN: usize = 3;
/// Maximum wait for an event.
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

/// The outcomes of the replaced generations.
#[derive(Debug, Default)]
pub(crate) struct CallStats {
    open: BTreeSet<u64>,
    /// Generations that stay mapped, and why.
    pub(crate) kept: BTreeMap<u64, String>,
    /// Number of generations that were kept at first.
    pub(crate) kept_at_first: u64,
    pub(crate) closed: u64,
    pub(crate) leaked_bytes: i64,
    pub(crate) unexpected: Vec<String>,
}

impl<'a> Swapper<'a> {
    /// Loads the installed build.
    pub(crate) fn new(host: Host, builds: &'a Builds) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let events = host.events();
        let handle = runtime.block_on(host.load(&builds.folder))?;
        let (name, stats) = (handle.name().to_string(), CallStats::default());
        Ok(Self { host, builds, name, runtime, events, which: 0, stats })
    }

    /// Installs and promotes the other build; waits until few generations are still closing.
    pub(crate) fn swap(&mut self) -> anyhow::Result<()> {
        self.which = 1 - self.which;
        self.builds.put(self.which)?;
        let reloaded = self.runtime.block_on(self.host.reload(&self.name));
        let reloaded = reloaded.map_err(|error| anyhow::anyhow!(error.full_message()))?;
        ensure!(
            matches!(reloaded, Reloaded::Promoted(_)),
            "unexpected result of a swap: {reloaded:?}"
        );
        while let Some(event) = self.events.try_next() {
            self.stats.note(event);
        }
        self.settle(MAX_OPEN)
    }

    /// Waits until at most `max_open` replaced generations are still closing.
    pub(crate) fn settle(&mut self, max_open: usize) -> anyhow::Result<()> {
        while self.stats.open.len() > max_open {
            self.next_event()?;
        }
        Ok(())
    }

    /// Waits until generations that were kept for a while are closed as well.
    pub(crate) fn settle_kept(&mut self) -> anyhow::Result<()> {
        self.settle(0)?;
        while !self.stats.kept.is_empty() && !self.host.retained().is_empty() {
            if self.next_event().is_err() {
                break;
            }
        }
        Ok(())
    }

    fn next_event(&mut self) -> anyhow::Result<()> {
        let events = &mut self.events;
        let next = async { tokio::time::timeout(EVENT_TIMEOUT, events.next()).await };
        let event = self.runtime.block_on(next).with_context(|| {
            let stats = &self.stats;
            format!("no event for generations {:?}, retained {:?}", stats.open, stats.kept)
        })?;
        self.stats.note(event.context("the host was dropped")?);
        Ok(())
    }

    /// Shuts the host down.
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
            other => self.unexpected.push(format!("{other:?}")),
        }
    }

    /// Checks that nothing but swaps happened.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(unexpected) = self.unexpected.first() {
            bail!("{} events of other kinds, the first {unexpected}", self.unexpected.len());
        }
        Ok(())
    }
}

/// Creates a runtime for the futures of one thread.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}
