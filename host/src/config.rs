//! The limits of a host; set by the builder, then only read.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use hotbay_manifest::{Sandbox, setters};

/// The limits of each plugin, which are also the defaults for its manifest.
///
/// A manifest may set lower limits. A higher one is reduced to the host's, and a note is logged.
///
/// ```
/// use std::time::Duration;
/// use hotbay::{Host, HostLimits, Output};
///
/// let limits = HostLimits::default()
///     .with_max_workers(2)
///     .with_queue_timeout(Some(Duration::from_secs(1)));
/// let host = Host::builder()
///     .limits(limits)
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// assert_eq!(host.list().len(), 1);
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostLimits {
    /// Worker threads of one plugin. Default: the number of cores.
    pub max_workers: u32,
    /// Queued calls of one plugin. Default: 1,024.
    pub max_queued_calls: u32,
    /// Pooled calls of one plugin that may wait for space in its queue: see
    /// [`Request::with_space_timeout`](crate::Request::with_space_timeout). Default: 65,536.
    pub max_queue_waiters: u32,
    /// Maximum time that a pooled call waits in the queue before it is rejected; `None` for as long
    /// as its deadline allows. Default: `None`.
    pub queue_timeout: Option<Duration>,
    /// Concurrent calls of one plugin, however they are made; `None` for no limit. Default:
    /// `None`.
    pub max_in_flight: Option<u32>,
    /// Open streams of one build of a plugin: an open one may hold 1 MiB of items, and that of a
    /// program a connection. A stream counts until the plugin has dropped it. Default: 1,024.
    pub max_open_streams: u32,
    /// Threads of one build of a plugin that make items of its streams at the same time, for callers that do
    /// not block; further streams wait until one of them has made some items. Default: 64.
    pub max_stream_threads: u32,
    /// Workers of one plugin that are replaced because their calls exceeded their deadlines or were
    /// cancelled, and did not return. At this number the plugin is quarantined until one of the
    /// replaced workers returns. Default: 16.
    pub max_abandoned_calls: u32,
    /// Bytes that one plugin may have allocated before it is quarantined, if it counts them; `None`
    /// for no limit. Default: `None`.
    pub max_memory_bytes: Option<u64>,
    /// Bytes that one call of a library may hold at once; `None` for no limit. Default: `None`.
    ///
    /// Counted is what the call's thread allocates in the library and has not freed, from the start of
    /// the call. What the call frees of earlier allocations counts as freed. Not counted are other
    /// threads, async methods, items of streams, and other plugins that the plugin calls.
    ///
    /// Nothing can stop an allocation without ending the program. A call over the limit runs to its
    /// end, its output is dropped, and it fails with
    /// [`InvalidOutput`](crate::ErrorKind::InvalidOutput). A call that fails otherwise keeps its own
    /// error. Neither counts toward the quarantine: for memory that a plugin keeps, there is
    /// [`max_memory_bytes`](Self::max_memory_bytes).
    ///
    /// Programs, async plugins, compiled-in plugins, and libraries that count no bytes are not limited.
    /// [`PluginInfo::notes`](crate::PluginInfo::notes) says so.
    pub max_call_memory_bytes: Option<u64>,
    /// Lines that one plugin may log in a second; further lines are dropped and counted. Default:
    /// 1,000.
    pub max_log_lines_per_second: u32,
    /// Bytes of one input. Default: 64 MiB.
    pub max_input_bytes: u64,
    /// Bytes of one output. Default: 64 MiB.
    pub max_output_bytes: u64,
    /// Stack size in bytes of each thread of a plugin. Default: 2 MiB.
    pub max_stack_bytes: u64,
    /// Bytes of a library, and of all files of a signed plugin. Default: 1 GiB.
    pub max_library_bytes: u64,
    /// Libraries of unloaded generations that may stay mapped. At this number every load and reload
    /// fails, and the error states how many are retained of which plugin and the bytes that they
    /// take. `u32::MAX` means no limit: each retained library then costs its mapping and one
    /// sleeping thread until the program exits. Default: 64.
    pub max_retained_libraries: u32,
    /// Bytes of the state that a plugin hands over to its next build. Default: 64 MiB.
    pub max_snapshot_bytes: u64,
    /// Concurrent pooled calls of one plugin of kind `process`; they need no threads. Default: 64.
    pub max_process_calls: u32,
    /// Time that a process may be idle before it exits by itself, or is stopped if it speaks an
    /// older dialect; the next call starts it again. Zero: forever. Default: 1 h.
    pub process_idle_timeout: Duration,
    /// Time for which a process may leave `/healthz` and every call unanswered once a call has
    /// exceeded its deadline; after that it counts as hung and is restarted. Must be longer than
    /// the longest call of a program that answers one request at a time. Zero: it is never checked.
    /// Default: 5 s.
    pub process_health_timeout: Duration,
    /// Descriptors that a process may have open; `None` for as many as the host. Default: 1,024.
    pub max_process_descriptors: Option<u64>,
    /// Processor time after which a process is stopped and started again, rounded up to seconds;
    /// `None` for no limit. Default: `None`.
    pub max_process_cpu_time: Option<Duration>,
    /// Time limit of each of these: reading schemas and validating against them, `init` and the
    /// checks around it, the start of a process until it accepts calls. Default: 30 s.
    pub start_timeout: Duration,
    /// Maximum time that an unload waits for running calls. Default: 30 s.
    pub drain_timeout: Duration,
    /// Maximum time that a call on the caller's thread waits while its plugin is paused for a
    /// reload, and that the reload waits for running calls. Pooled calls wait in the queue for as
    /// long as their deadlines allow. Default: 5 s.
    pub pause_timeout: Duration,
    /// Time limit of a plugin's `shutdown`; a process is killed after it. Default: 10 s.
    pub stop_timeout: Duration,
}

setters!(HostLimits {
    with_max_workers => max_workers: u32,
    with_max_queued_calls => max_queued_calls: u32,
    with_max_queue_waiters => max_queue_waiters: u32,
    with_queue_timeout => queue_timeout: Option<Duration>,
    with_max_in_flight => max_in_flight: Option<u32>,
    with_max_open_streams => max_open_streams: u32,
    with_max_stream_threads => max_stream_threads: u32,
    with_max_abandoned_calls => max_abandoned_calls: u32,
    with_max_memory_bytes => max_memory_bytes: Option<u64>,
    with_max_call_memory_bytes => max_call_memory_bytes: Option<u64>,
    with_max_log_lines_per_second => max_log_lines_per_second: u32,
    with_max_input_bytes => max_input_bytes: u64,
    with_max_output_bytes => max_output_bytes: u64,
    with_max_stack_bytes => max_stack_bytes: u64,
    with_max_library_bytes => max_library_bytes: u64,
    with_max_retained_libraries => max_retained_libraries: u32,
    with_max_snapshot_bytes => max_snapshot_bytes: u64,
    with_max_process_calls => max_process_calls: u32,
    with_process_idle_timeout => process_idle_timeout: Duration,
    with_process_health_timeout => process_health_timeout: Duration,
    with_max_process_descriptors => max_process_descriptors: Option<u64>,
    with_max_process_cpu_time => max_process_cpu_time: Option<Duration>,
    with_start_timeout => start_timeout: Duration,
    with_drain_timeout => drain_timeout: Duration,
    with_pause_timeout => pause_timeout: Duration,
    with_stop_timeout => stop_timeout: Duration,
});

impl Default for HostLimits {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            max_workers: u32::try_from(cores).unwrap_or(u32::MAX),
            max_queued_calls: 1024,
            max_queue_waiters: 1 << 16,
            queue_timeout: None,
            max_in_flight: None,
            max_open_streams: 1024,
            max_stream_threads: 64,
            max_abandoned_calls: 16,
            max_memory_bytes: None,
            max_call_memory_bytes: None,
            max_log_lines_per_second: 1000,
            max_input_bytes: 64 << 20,
            max_output_bytes: 64 << 20,
            max_stack_bytes: 2 << 20,
            max_library_bytes: 1 << 30,
            max_retained_libraries: 64,
            max_snapshot_bytes: 64 << 20,
            max_process_calls: 64,
            process_idle_timeout: Duration::from_secs(60 * 60),
            process_health_timeout: Duration::from_secs(5),
            max_process_descriptors: Some(1024),
            max_process_cpu_time: None,
            start_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            pause_timeout: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// When a plugin with repeated faults is quarantined, and for how long.
///
/// ```
/// use hotbay::{Error, ErrorKind, Host, Quarantine, Request};
///
/// let host = Host::builder()
///     .quarantine(Quarantine::default().with_max_faults(1))
///     .register_fn("faulty", |_, _| panic!("on purpose"))
///     .build()?;
/// let faulty = host.plugin("faulty")?;
/// assert_eq!(faulty.call(Request::text("")).unwrap_err().kind(), ErrorKind::Panicked);
/// let error = faulty.call(Request::text("")).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Quarantined);
/// assert!(error.retry_after().is_some());
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// Number of faults (panics and abandoned calls) within [`window`](Self::window) that
    /// quarantine a plugin. Default: 5.
    pub max_faults: u32,
    /// The window in which faults are counted. Default: 60 s.
    pub window: Duration,
    /// Duration of the first quarantine; each failed probe doubles it. Default: 1 s.
    pub initial_backoff: Duration,
    /// Maximum duration of a quarantine. Default: 60 s.
    pub max_backoff: Duration,
}

setters!(Quarantine {
    with_max_faults => max_faults: u32,
    with_window => window: Duration,
    with_initial_backoff => initial_backoff: Duration,
    with_max_backoff => max_backoff: Duration,
});

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            max_faults: 5,
            window: Duration::from_secs(60),
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
        }
    }
}

/// What a host requires of the confinement of programs and isolated libraries.
///
/// Values of a `hotbay.toml` replace these, if the file is set later than this policy. Its bounds come
/// first in any case.
///
/// ```
/// use hotbay::Host;
/// use hotbay::confinement::ConfinementPolicy;
/// use hotbay::manifest::Sandbox;
///
/// let bounds = Sandbox::default().with_connect(Some(Vec::new()));
/// let policy = ConfinementPolicy::default().with_required(true).with_bounds(Some(bounds));
/// let host = Host::builder().confinement(policy).build()?;
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfinementPolicy {
    /// Refuses programs and isolated libraries without a sandbox, and rules that are unavailable on this machine. By
    /// default they are enforced as far as possible, and a warning names the others.
    pub required: bool,
    /// Runs the library of each folder in its own process, as if its manifest stated it, unless the
    /// configuration sets `isolation` for the plugin of this name. Together with `required`, each of
    /// them needs a sandbox. Compiled-in plugins stay in this process.
    pub isolate_libraries: bool,
    /// Bounds of the sandboxes of manifests. The configuration can set others for single plugins.
    pub bounds: Option<Sandbox>,
    /// Whether every program with a sandbox runs in new Linux namespaces, as far as this machine permits
    /// it. By default only those whose sandboxes say so.
    pub namespaces: bool,
    /// Folder for the folders `{state}` of plugins. By default `hotbay` in `$XDG_STATE_HOME`, or in
    /// `~/.local/state`.
    pub state_dir: Option<PathBuf>,
    /// Files and folders that no program may change, besides those that the host protects in any case:
    /// a `write` that is, contains or is in one of them is refused. They do not have to exist. List the
    /// folders of plugins here that are neither in a plugin directory nor in the configuration.
    pub protected: Vec<PathBuf>,
    /// A folder of control groups (version 2) that is delegated to the host, by which all processes
    /// of a program together are limited. Without it, shares of processor time are not limited.
    pub cgroup: Option<PathBuf>,
}

setters!(ConfinementPolicy {
    with_required => required: bool,
    with_isolate_libraries => isolate_libraries: bool,
    with_bounds => bounds: Option<Sandbox>,
    with_namespaces => namespaces: bool,
    with_state_dir => state_dir: Option<PathBuf>,
    with_protected => protected: Vec<PathBuf>,
    with_cgroup => cgroup: Option<PathBuf>,
});
