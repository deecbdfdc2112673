//! A snapshot of a loaded plugin.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use semver::Version;

use crate::id::{GenerationId, PluginName};
use crate::manifest::Manifest;
use crate::metrics::PluginStats;

/// The state of a loaded plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum PluginState {
    /// It accepts calls.
    Serving,
    /// It is [quarantined](crate::Quarantine): calls fail until a probe succeeds.
    Quarantined,
    /// It accepts no new calls, and some still run.
    Draining,
    /// It serves no more.
    Retired,
}

impl PluginState {
    /// Returns its name in lower case, as `Display` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Quarantined => "quarantined",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for PluginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A snapshot of a loaded plugin: see [`Host::list`](crate::Host::list).
///
/// ```
/// use hotbay::{Host, Output, PluginState, Request};
///
/// let host = Host::builder()
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// host.plugin("echo")?.call(Request::text("hello"))?;
/// let echo = &host.list()[0];
/// assert_eq!((echo.name.as_str(), echo.state), ("echo", PluginState::Serving));
/// assert_eq!((echo.stats.calls, echo.stats.errors), (1, 0));
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PluginInfo {
    /// The name of the plugin.
    pub name: PluginName,
    /// The version of the current build.
    pub version: Version,
    /// The current generation.
    pub generation: Option<GenerationId>,
    /// Its state.
    pub state: PluginState,
    /// The folder that it was loaded from; `None` if it is compiled in.
    pub folder: Option<PathBuf>,
    /// The manifest of the current build.
    pub manifest: Arc<Manifest>,
    /// The id of its process; `None` if it has none or none is running.
    pub pid: Option<u32>,
    /// What its manifest asked for and did not get, and what the probe of its library says about
    /// a later unload. One sentence each.
    pub notes: Vec<String>,
    /// Its counts.
    pub stats: PluginStats,
}

impl PluginInfo {
    /// Creates the snapshot of a plugin that serves and has no activity yet, for tests of code that
    /// reads snapshots.
    pub fn new(manifest: Manifest) -> Self {
        Self {
            name: manifest.name().clone(),
            version: manifest.version().clone(),
            generation: None,
            state: PluginState::Serving,
            folder: None,
            manifest: Arc::new(manifest),
            pid: None,
            notes: Vec::new(),
            stats: PluginStats::default(),
        }
    }
}
