//! The limits of a host, each with its unit; set once by the builder, then only read.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

/// What a plugin may use at most, and what it gets when its manifest asks for nothing.
///
/// A manifest may ask for less than these; what it asks for above them is clamped, and told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostLimits {
    /// Threads that run the pooled calls of one plugin. Default: the number of cores.
    pub max_workers: u32,
    /// Pooled calls of one plugin that may wait. Default: 1,024.
    pub max_queued_calls: u32,
    /// Pooled calls of one plugin that may wait for a place in its queue, see
    /// [`Request::wait_for_place`](crate::Request::wait_for_place). Default: 65,536.
    pub max_queue_waiters: u32,
    /// How long a pooled call may wait in the queue before it is not worth beginning; none: as
    /// long as its deadline allows. Default: none.
    pub queue_timeout: Option<Duration>,
    /// Calls of one plugin that may run at once, however they are made; none: as many as there
    /// are callers and workers. Default: none.
    pub max_in_flight: Option<u32>,
    /// Workers of one plugin that are replaced because their calls passed their deadlines or
    /// were taken back, and did not return. At this number the plugin is quarantined until one
    /// of those that were replaced returns. Default: 16.
    pub max_abandoned_calls: u32,
    /// Bytes that one plugin may have allocated before it is quarantined, where it counts them;
    /// none: any number. Default: none.
    pub max_memory_bytes: Option<u64>,
    /// Lines that one plugin may log in a second; what is over is dropped, and counted.
    /// Default: 1,000.
    pub max_log_lines_per_second: u32,
    /// Bytes of one input. Default: 64 MiB.
    pub max_input_bytes: u64,
    /// Bytes of one output. Default: 64 MiB.
    pub max_output_bytes: u64,
    /// Bytes of the stack of each of a plugin's threads. Default: 2 MiB.
    pub max_stack_bytes: u64,
    /// Bytes of a library. Default: 1 GiB.
    pub max_library_bytes: u64,
    /// Libraries of ended generations that may stay mapped; at this number nothing is loaded or
    /// reloaded, and the error states how many are kept of which plugin and the bytes that they
    /// take. `u32::MAX` is no limit: each kept library then costs its mapping and one sleeping
    /// thread until the program ends. Default: 64.
    pub max_retained_libraries: u32,
    /// Bytes of the state that a plugin hands to its next build. Default: 64 MiB.
    pub max_snapshot_bytes: u64,
    /// Pooled calls of one plugin of the kind `process` that may be under way at once; they need
    /// no threads. Default: 64.
    pub max_process_calls: u32,
    /// How long a process may be without calls before it is to end by itself, or is ended where
    /// it speaks an older dialect; it is started again by the next call. Zero: forever. Default:
    /// 1 h.
    pub process_idle_timeout: Duration,
    /// How long a process may leave `/healthz` unanswered, and every call too, once a call has
    /// missed its deadline; then it is hung, and is ended and started again. It has to be longer
    /// than the longest call of a program that answers one request at a time. Zero: it is never
    /// asked. Default: 5 s.
    pub process_health_timeout: Duration,
    /// Descriptors that a process may have open; none: as many as the host. Default: 1,024.
    pub max_process_descriptors: Option<u64>,
    /// Seconds that a process may compute in all before it is ended (and started again); none:
    /// any number. Default: none.
    pub max_process_cpu_seconds: Option<u64>,
    /// How long each of these may take: reading schemas and checking by them, `init` and the
    /// checks around it, a process until it can be called. Default: 30 s.
    pub start_timeout: Duration,
    /// How long an unload waits for the calls that run. Default: 30 s.
    pub drain_timeout: Duration,
    /// How long a call in the caller's thread waits at most while its plugin is paused for a
    /// reload, and how long the reload waits for the calls that run. Pooled calls wait in the
    /// queue, for as long as their deadlines allow. Default: 5 s.
    pub pause_timeout: Duration,
    /// How long a plugin's `shutdown` may take; a process is killed then. Default: 10 s.
    pub stop_timeout: Duration,
}

impl Default for HostLimits {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            max_workers: u32::try_from(cores).unwrap_or(u32::MAX),
            max_queued_calls: 1024,
            max_queue_waiters: 1 << 16,
            queue_timeout: None,
            max_in_flight: None,
            max_abandoned_calls: 16,
            max_memory_bytes: None,
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
            max_process_cpu_seconds: None,
            start_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            pause_timeout: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// When a plugin that keeps failing is quarantined, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantine {
    /// Panics and abandoned calls within [`window`](Self::window) that quarantine a plugin.
    /// Default: 5.
    pub max_faults: u32,
    /// The window in which faults are counted. Default: 60 s.
    pub window: Duration,
    /// How long the first quarantine lasts; each one after a failed probe lasts twice as long.
    /// Default: 1 s.
    pub initial_backoff: Duration,
    /// How long a quarantine lasts at most. Default: 60 s.
    pub max_backoff: Duration,
}

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
