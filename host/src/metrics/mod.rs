//! Metrics: a store of counts, a collector that fills it, and the export of a host's stats. Knows
//! no plugins, and has no state shared by all hosts.

mod channel;
mod collector;
#[cfg(feature = "metrics")]
mod export;
mod latency;
mod snapshot;
mod store;

pub use channel::{CollectError, Collected};
pub use collector::{Collector, CollectorLimits};
#[cfg(feature = "metrics")]
pub use export::Exporter;
pub use latency::{Latencies, LatencyBucket, LatencySnapshot};
pub use snapshot::{HostStats, PluginInfo, PluginState, PluginStats, ProcessUsage};
pub use store::{MemoryStore, MetricStore};
