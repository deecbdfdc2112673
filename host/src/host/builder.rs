//! How a host is configured: dirs, limits, what is accepted, what is compiled in.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::cancellation::shut_down_with;
use super::discovery::{DirectoryWalk, Discovery};
use super::registry::Registry;
use super::runtime::Factories;
use super::{Host, Inner, absolute};
use crate::artifact::stage::StagingArea;
use crate::call::Request;
use crate::config::{HostLimits, Quarantine};
use crate::error::{Error, ErrorKind};
use crate::event::EventBus;
use crate::generation::DeferredUnloads;
use crate::id::PluginName;
use crate::layers::{Layer, Layers};
use crate::manifest::{Manifest, start_order};
use crate::pool::Timer;
use crate::providers::{Choices, Preferences};
use crate::reload::{
    AbandonedChecks, Candidate, CoalescingQueue, LoaderContext, PermissionPolicy, Rules, Source,
};
use crate::sync::SameProcess;

/// Configures a [`Host`].
#[must_use]
pub struct HostBuilder {
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) rules: Rules,
    pub(crate) limits: HostLimits,
    quarantine: Option<Quarantine>,
    want_frames: bool,
    default_deadline: Option<Duration>,
    pub(super) layers: Layers,
    grant: Option<PermissionPolicy>,
    /// The first thing that was asked for and makes no sense.
    pub(super) mistake: Option<Error>,
    pub(super) preferences: Preferences,
    pub(crate) staging_dir: Option<PathBuf>,
    keep_staged: bool,
    pub(crate) environment: Vec<String>,
    pub(super) compiled_in: Vec<(Result<Manifest, Error>, Source)>,
    pub(super) factories: Factories,
    discovery: Option<Box<dyn Discovery>>,
    cancellation: Option<CancellationToken>,
    is_watched: bool,
    poll_interval: Option<Duration>,
    unload_removed: bool,
}

impl HostBuilder {
    pub(super) fn new() -> Self {
        let limits = HostLimits::default();
        let rules = Rules {
            allow_unverified: false,
            allow_writable_by_others: false,
            max_library_bytes: limits.max_library_bytes,
        };
        Self {
            dirs: Vec::new(),
            rules,
            limits,
            quarantine: Some(Quarantine::default()),
            want_frames: false,
            default_deadline: None,
            layers: Layers::default(),
            grant: None,
            mistake: None,
            preferences: Preferences::default(),
            staging_dir: None,
            keep_staged: false,
            environment: Vec::new(),
            compiled_in: Vec::new(),
            factories: Factories::default(),
            discovery: None,
            cancellation: None,
            is_watched: false,
            poll_interval: None,
            unload_removed: true,
        }
    }

    /// Adds a folder below which plugins are looked for. A relative one is resolved against the
    /// running directory once, by [`build`](Self::build).
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

    /// Accepts folders and files that other users own or may write to.
    ///
    /// Otherwise refused: such a manifest, library, program or folder of a plugin; such a folder
    /// anywhere above it, up to the root of the file system (a sticky one, as `/tmp`, is fine);
    /// and, where the plugin is a program, anything else such in its folder, at every depth, and
    /// any link there that leads out of it. A program's folder is checked again at each start.
    pub fn allow_writable_by_others(mut self, allow: bool) -> Self {
        self.rules.allow_writable_by_others = allow;
        self
    }

    /// Sets what plugins may use.
    pub fn limits(mut self, limits: HostLimits) -> Self {
        self.rules.max_library_bytes = limits.max_library_bytes;
        self.limits = limits;
        self
    }

    /// Sets when plugins that keep failing are quarantined; `None`: never. One that is over its
    /// memory limit is quarantined all the same.
    pub fn quarantine(mut self, quarantine: impl Into<Option<Quarantine>>) -> Self {
        self.quarantine = quarantine.into();
        self
    }

    /// Sets how long pooled calls may take that name no deadline, to plugins whose manifests
    /// state none. Default: as long as they like.
    pub fn default_deadline(mut self, wait_max: Duration) -> Self {
        self.default_deadline = Some(wait_max);
        self
    }

    /// Puts a layer around the calls of every plugin; the first that is added is the outermost.
    /// See [`Layer`].
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.add(Arc::new(layer));
        self
    }

    /// Gives processes a name of the host's environment, besides the usual ones such as `PATH`,
    /// `HOME` and `LANG`. Nothing else of it reaches them.
    pub fn inherit_env(mut self, name: impl Into<String>) -> Self {
        self.environment.push(name.into());
        self
    }

    /// Looks at the requests of one plugin before they reach it. What `validator` answers with
    /// `Err` is refused as `InvalidInput`, with its text.
    ///
    /// It runs in the thread that runs the call, after the check against the manifest's
    /// `input_schema`, if there is one; all validators of a plugin have to agree. One that
    /// panics fails its call with the kind `LayerPanicked`, and nothing is held against the plugin.
    ///
    /// ```
    /// # use hotbay::{Error, ErrorKind, Host, Output, Request};
    /// let host = Host::builder()
    ///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
    ///     .validate("echo", |request| match request.as_bytes() {
    ///         [] => Err("there is nothing to echo".to_owned()),
    ///         _ => Ok(()),
    ///     })
    ///     .build()?;
    /// let error = host.plugin("echo")?.call(Request::text("")).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// assert!(error.full_message().contains("there is nothing to echo"));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn validate<F>(mut self, plugin: &str, validator: F) -> Self
    where
        F: Fn(&Request<'_>) -> Result<(), String> + Send + Sync + 'static,
    {
        match PluginName::new(plugin) {
            Ok(plugin) => self.layers.validate(plugin, Arc::new(validator)),
            Err(error) => {
                let message = format!("requests of `{plugin}` cannot be validated");
                let error = Error::new(ErrorKind::NotFound, message).caused_by(error);
                self.mistake.get_or_insert(error);
            }
        }
        self
    }

    /// Asks the application at every load which of the permissions that a manifest lists the
    /// plugin is granted. Without this, all of them are.
    ///
    /// `grant` is asked once for each: for host services such as `log`, and for operations that
    /// requests may name ([`Request::operation`]). What it does not grant behaves as if it were
    /// not listed, and is told in [`PluginInfo::notes`](crate::PluginInfo::notes). If it panics,
    /// the plugin is refused with the kind `LayerPanicked`. It blocks the load while it decides.
    ///
    /// ```
    /// # use hotbay::{Error, ErrorKind, Host, Manifest, Output, Request};
    /// # use hotbay::{CallContext, Payload, Plugin, PluginError};
    /// # use hotbay::hotbay_plugin::{Config, HostServices};
    /// # struct Notes;
    /// # impl Plugin for Notes {
    /// #     fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> { Ok(Self) }
    /// #     fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
    /// #         Ok(Output::text("done"))
    /// #     }
    /// # }
    /// let manifest = Manifest::new("notes", "1.0.0")
    ///     .and_then(|manifest| manifest.with_permission("read"))
    ///     .and_then(|manifest| manifest.with_permission("write"))
    ///     .expect("a manifest");
    /// let host = Host::builder()
    ///     .permission_policy(|_plugin, permission| permission == "read")
    ///     .register::<Notes>(manifest)
    ///     .build()?;
    /// let notes = host.plugin("notes")?;
    /// assert!(notes.call(Request::text("1").operation("read")).is_ok());
    /// let error = notes.call(Request::text("1").operation("write")).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn permission_policy<F>(mut self, grant: F) -> Self
    where
        F: Fn(&PluginName, &str) -> bool + Send + Sync + 'static,
    {
        self.grant = Some(PermissionPolicy(Arc::new(grant)));
        self
    }

    /// Asks plugins for the return addresses of their panics: see
    /// [`Fault::frames`](hotbay_plugin::Fault::frames).
    pub fn capture_panic_backtrace(mut self, want: bool) -> Self {
        self.want_frames = want;
        self
    }

    /// Sets the folder in which private copies of libraries are made; by default the system's
    /// folder for temporary files. It must allow files to be executed. A relative one is resolved
    /// by [`build`](Self::build).
    pub fn staging_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.staging_dir = Some(dir.into());
        self
    }

    /// Leaves the private copies in folders named `hotbay-kept-…` after the libraries were
    /// unmapped and after this process, for profilers and core dumps that are read later. The
    /// host never removes them.
    ///
    /// Without it a copy is removed when its library is unmapped. Until then its path is valid,
    /// so backtraces, debuggers and profilers of a running process find the symbols. Copies of a
    /// process that was killed are removed when the next host stages something.
    pub fn keep_staged(mut self, keep: bool) -> Self {
        self.keep_staged = keep;
        self
    }

    /// Watches the plugin directories from [`build`](Self::build) on, and loads, reloads and
    /// unloads plugins as their folders change. Default: false.
    ///
    /// Watched are the directories and all below them, not single files, so that a file may be
    /// replaced in any way; a directory that is not there yet, or was replaced as a whole, is
    /// found within a second. Of a plugin's folder count `plugin.json`, the files that it
    /// names, and, for a library on Linux, files called `*.so` or `*.so.*` there and up to two
    /// folders below, since the library may link them; nothing else there does anything.
    ///
    /// A file that is renamed into place is looked at at once. Any other change is settled when
    /// the files' sizes and times were the same for 50 ms. Then a plugin that serves is
    /// [reloaded](Host::reload), and one that does not is loaded, also if it was unloaded
    /// before; what is there already waits for [`load_all`](Host::load_all). Files that do not
    /// fit together, such as a new library beside the manifest of the old one, are probably half
    /// of a replacement: they are refused, with an event, only when that was so for 300 ms. The
    /// same content is refused once.
    ///
    /// For network file systems, whose changes nobody tells, see
    /// [`watch_poll_interval`](Self::watch_poll_interval).
    pub fn hot_reload(mut self, watch: bool) -> Self {
        self.is_watched = watch;
        self
    }

    /// Looks for changes that often instead of being told of them by the system.
    pub fn watch_poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = Some(interval);
        self
    }

    /// Whether a plugin whose folder or `plugin.json` is gone for 300 ms is unloaded. Default:
    /// true. One that others require stays, with an event; and all stay as long as the plugin
    /// directory itself is not there.
    pub fn unload_removed(mut self, retire: bool) -> Self {
        self.unload_removed = retire;
        self
    }

    /// Sets how plugins are found by [`Host::load_all`], instead of by a walk through the plugin
    /// directories, which are then only [watched](Self::hot_reload). See [`Discovery`].
    pub fn discovery(mut self, discovery: impl Discovery) -> Self {
        self.discovery = Some(Box::new(discovery));
        self
    }

    /// Shuts the host down when `token` is cancelled, with
    /// [`drain_timeout`](HostLimits::drain_timeout) as the grace of running calls.
    ///
    /// ```
    /// # use hotbay::{Host, HostEvent};
    /// use hotbay::CancellationToken;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotbay::Error> {
    /// let token = CancellationToken::new();
    /// let host = Host::builder().cancellation_token(token.clone()).build()?;
    /// let mut events = host.events();
    /// token.cancel();
    /// assert!(matches!(events.next().await, Some(HostEvent::Stopped)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancellation_token(mut self, token: CancellationToken) -> Self {
        self.cancellation = Some(token);
        self
    }

    /// Makes the host and starts what is compiled in, in the order of `requires`. Nothing of
    /// the plugin directories is loaded yet.
    ///
    /// Blocks until the compiled-in plugins are started.
    ///
    /// # Errors
    ///
    /// The first compiled-in plugin that did not start; `NotFound` for a validator, a preference
    /// or a cache of what is no plugin's name; `Overloaded` when the system gives no thread to watch on.
    pub fn build(self) -> Result<Host, Error> {
        if let Some(mistake) = self.mistake {
            return Err(mistake);
        }
        let staging_dir = self.staging_dir.unwrap_or_else(std::env::temp_dir);
        let dirs: Vec<_> = self.dirs.iter().map(|dir| absolute(dir)).collect();
        let discovery = self.discovery.unwrap_or_else(|| {
            Box::new(DirectoryWalk { dirs: dirs.clone(), rules: self.rules.clone() })
        });
        let (events_owner, events) = EventBus::new();
        let inner = Arc::new(Inner {
            context: Arc::new(LoaderContext {
                rules: self.rules,
                deferred_unloads: DeferredUnloads::new(events.clone(), self.limits.clone()),
                limits: self.limits,
                quarantine: self.quarantine,
                capture_panic_backtrace: self.want_frames,
                default_deadline: self.default_deadline,
                permission_policy: self.grant,
                timer: Timer::new(),
                events: events,
                staging: StagingArea::new(Some(&absolute(&staging_dir)), self.keep_staged).into(),
                abandoned_checks: AbandonedChecks::default(),
                #[cfg(unix)]
                processes: crate::supervisor::Processes::default(),
                inherit_env: self.environment,
            }),
            background: Arc::default(),
            layers: self.layers,
            preferences: self.preferences,
            choices: Choices::default(),
            _events: events_owner,
            registry: Registry::new(),
            dirs,
            discovery,
            factories: self.factories,
            cancellation: OnceLock::new(),
            reload_queue: CoalescingQueue::new(),
            watch: Mutex::default(),
        });
        let host = Host { inner: SameProcess::new(inner) };
        for (candidate, source) in in_order(self.compiled_in)? {
            host.inner.load(&candidate, source, None)?;
        }
        if let Some(token) = self.cancellation {
            let guard = shut_down_with(&host.inner, token)?;
            let _ = host.inner.cancellation.set(guard);
        }
        if self.is_watched {
            host.inner.watch(self.poll_interval, self.unload_removed)?;
        }
        Ok(host)
    }
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder")
            .field("dirs", &self.dirs)
            .field("rules", &self.rules)
            .field("limits", &self.limits)
            .field("quarantine", &self.quarantine)
            .field("layers", &self.layers)
            .field("compiled_in", &self.compiled_in)
            .field("factories", &self.factories)
            .finish_non_exhaustive()
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
            candidates.iter().map(|(candidate, _)| candidate.start_candidate()).collect();
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
