//! How a host is configured: dirs, limits, what is accepted, what is compiled in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotbay_plugin::{CallContext, Output, Payload, Plugin, PluginError};

use super::function::Function;
use super::table::Table;
use super::{Host, Inner};
use crate::artifact::stage::StagingArea;
use crate::boundary::{Instance, Root};
use crate::config::{HostLimits, Quarantine};
use crate::error::Error;
use crate::event::Board;
use crate::generation::Keeper;
use crate::manifest::{Manifest, start_order};
use crate::reload::{Candidate, Desk, Inspection, Rules, Source, Surveyed, Workshop};

/// Configures a [`Host`].
#[derive(Debug)]
#[must_use]
pub struct HostBuilder {
    dirs: Vec<PathBuf>,
    rules: Rules,
    limits: HostLimits,
    quarantine: Option<Quarantine>,
    want_frames: bool,
    staging_dir: Option<PathBuf>,
    keep_staged: bool,
    compiled_in: Vec<(Result<Manifest, Error>, Source)>,
}

impl HostBuilder {
    pub(super) fn new() -> Self {
        let limits = HostLimits::default();
        let rules = Rules {
            allow_unverified: false,
            allow_writable_by_others: false,
            library_bytes_max: limits.library_bytes_max,
        };
        Self {
            dirs: Vec::new(),
            rules,
            limits,
            quarantine: Some(Quarantine::default()),
            want_frames: false,
            staging_dir: None,
            keep_staged: false,
            compiled_in: Vec::new(),
        }
    }

    /// Adds a folder below which plugins are looked for.
    pub fn plugin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dirs.push(dir.into());
        self
    }

    /// Accepts libraries whose manifests state no digest. A damaged library can end the process
    /// at load; only a digest, or a process of its own, guards against that.
    pub fn allow_unverified(mut self, allow: bool) -> Self {
        self.rules.allow_unverified = allow;
        self
    }

    /// Accepts folders and files that other users may write to.
    pub fn allow_writable_by_others(mut self, allow: bool) -> Self {
        self.rules.allow_writable_by_others = allow;
        self
    }

    /// Sets what plugins may use.
    pub fn limits(mut self, limits: HostLimits) -> Self {
        self.rules.library_bytes_max = limits.library_bytes_max;
        self.limits = limits;
        self
    }

    /// Sets when plugins that keep failing are quarantined; `None`: never.
    pub fn quarantine(mut self, quarantine: impl Into<Option<Quarantine>>) -> Self {
        self.quarantine = quarantine.into();
        self
    }

    /// Asks plugins for the return addresses of their panics: see
    /// [`Fault::frames`](hotbay_plugin::Fault::frames).
    pub fn panic_frames(mut self, want: bool) -> Self {
        self.want_frames = want;
        self
    }

    /// Sets the folder in which private copies of libraries are made; by default the system's
    /// folder for temporary files. It must allow files to be executed.
    pub fn staging_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.staging_dir = Some(dir.into());
        self
    }

    /// Leaves the private copies where they are, in folders named `hotbay-kept-…`, for
    /// debuggers and profilers that look at a library's file; whoever wants them removes them.
    pub fn keep_staged(mut self, keep: bool) -> Self {
        self.keep_staged = keep;
        self
    }

    /// Adds a plugin that is compiled into this program, started by its manifest.
    pub fn register<T: Plugin>(mut self, manifest: Manifest) -> Self {
        let source = Source::Type(Root::compiled_in::<T>());
        self.compiled_in.push((Ok(manifest), source));
        self
    }

    /// Adds a function as a plugin.
    pub fn register_fn<F>(mut self, name: &str, function: F) -> Self
    where
        F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
    {
        let manifest = Manifest::new(name, "0.0.0").map_err(|error| {
            let kind = crate::error::ErrorKind::Manifest;
            Error::new(kind, format!("`{name}` cannot be registered")).caused_by(error)
        });
        let instance = Instance::compiled_in(Function(function));
        self.compiled_in.push((manifest, Source::Value(instance)));
        self
    }

    /// Makes the host and starts what is compiled in, in the order of `requires`. Nothing of
    /// the plugin directories is loaded yet.
    ///
    /// Blocks until the compiled-in plugins are started.
    ///
    /// # Errors
    ///
    /// The first compiled-in plugin that did not start.
    pub fn build(self) -> Result<Host, Error> {
        let board = Board::new();
        let inner = Arc::new(Inner {
            workshop: Workshop {
                rules: self.rules,
                keeper: Keeper::new(board.clone(), self.limits.clone()),
                limits: self.limits,
                quarantine: self.quarantine,
                want_frames: self.want_frames,
                board,
                staging: StagingArea::new(self.staging_dir.as_deref(), self.keep_staged),
            },
            table: Table::new(),
            dirs: self.dirs,
            desk: Desk::new(),
        });
        let host = Host { inner };
        for (candidate, source) in in_order(self.compiled_in)? {
            host.inner.load(&candidate, source, None)?;
        }
        Ok(host)
    }

    /// Looks at every folder below the plugin directories, without running anything: manifests
    /// and stamps only. The second answer is what was wrong with the walk itself.
    pub fn survey(&self) -> (Vec<Surveyed>, Vec<Error>) {
        super::load_all::survey(&self.dirs, &self.rules)
    }

    /// Looks closely at the plugin in `folder`, without running anything.
    pub fn inspect(&self, folder: impl AsRef<Path>) -> Inspection {
        crate::reload::inspect(folder.as_ref(), &self.rules)
    }

    /// Compares the root module of the library in `folder` with this host's, at length.
    ///
    /// Answers with the report of the differences, or none if there are none. Runs the
    /// library's initialisers in this process, so a damaged library can end it.
    ///
    /// # Errors
    ///
    /// By the step that failed before the comparison.
    pub fn abi_report(&self, folder: impl AsRef<Path>) -> Result<Option<String>, Error> {
        crate::reload::abi_report(folder.as_ref(), &self.rules)
    }
}

type Compiled = (Candidate, Source);

/// What is compiled in, so that what is required comes first.
fn in_order(compiled_in: Vec<(Result<Manifest, Error>, Source)>) -> Result<Vec<Compiled>, Error> {
    let mut candidates = Vec::new();
    for (manifest, source) in compiled_in {
        candidates.push((Candidate::compiled_in(manifest?), source));
    }
    let order = {
        let applicants: Vec<_> =
            candidates.iter().map(|(candidate, _)| candidate.applicant()).collect();
        start_order(&applicants)
    };
    if let Some((index, problem)) = order.refused.into_iter().next() {
        let (candidate, _) = &candidates[index];
        return Err(candidate.not_startable(problem));
    }
    let mut ranks = vec![0; candidates.len()];
    for (rank, index) in order.levels.into_iter().flatten().enumerate() {
        ranks[index] = rank;
    }
    let mut ranked: Vec<_> = ranks.into_iter().zip(candidates).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, compiled)| compiled).collect())
}
