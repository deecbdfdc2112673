//! Turns a folder or a compiled-in plugin into a generation, step by step. Every step before the
//! last can be undone; a failed load leaves nothing behind.

mod abi_report;
mod callsites;
mod candidate;
mod coalescing_queue;
#[cfg(all(unix, feature = "conformance"))]
mod conformance;
mod content;
mod debounce;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod dependencies;
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
#[path = "no_dependencies.rs"]
mod dependencies;
mod effective_limits;
#[cfg(feature = "watch")]
mod fs_watcher;
#[cfg(not(feature = "watch"))]
#[path = "no_fs_watcher.rs"]
mod fs_watcher;
mod library_loader;
mod load;
mod load_options;
mod permissions;
mod plan;
mod plugin_log;
mod policy;
#[cfg(all(unix, feature = "process"))]
mod process_loader;
#[cfg(all(unix, feature = "process"))]
mod process_observer;
mod rate_limiter;
mod roots;
mod schema_check;
mod services;
mod signature;
mod source;
mod stop_first;
mod survey;
mod swap;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use semver::Version;

use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Trust;
use crate::config::{HostLimits, Quarantine};
use crate::event::EventBus;
use crate::generation::DeferredUnloads;
use crate::worker::Timer;
pub(crate) use abi_report::abi_report;
pub(crate) use candidate::Candidate;
pub(crate) use coalescing_queue::{CoalescingQueue, Submission};
#[cfg(all(unix, feature = "conformance"))]
pub(crate) use conformance::{ConformanceRun, check_program};
pub(crate) use content::Content;
pub(crate) use debounce::{Attempt, AttemptOutcome};
pub(crate) use load::{Build, Loaded, load};
pub use load_options::LoadOptions;
pub(crate) use permissions::PermissionPolicy;
pub(crate) use plan::{Dependent, Plan, plan};
pub(crate) use schema_check::AbandonedChecks;
pub(crate) use source::{Constructor, Source};
pub use survey::{Built, Inspection, SurveyedPlugin};
pub(crate) use survey::{
    FolderSearch, folders, inspect, read_artifact, search, survey as survey_one,
};
pub(crate) use swap::{Swapped, swap};
pub(crate) use watch::{ChangeHandler, OutcomeSender, Watch, WatchOptions};

/// Why no program can be started: processes need local sockets, process groups and signals.
#[cfg(not(all(unix, feature = "process")))]
pub(crate) const NO_PROCESSES: &str = "this host was built without process plugins";
#[cfg(not(all(unix, feature = "process")))]
pub(crate) const NO_PROCESSES_HINT: &str = if cfg!(unix) {
    "enable the feature `process` of `hotbay`"
} else {
    "process plugins need Unix; build the plugin as a library"
};

/// State shared by all loads of a host.
#[derive(Debug)]
pub(crate) struct LoaderContext {
    pub(crate) rules: Rules,
    pub(crate) limits: HostLimits,
    pub(crate) quarantine: Option<Quarantine>,
    pub(crate) capture_panic_backtrace: bool,
    /// The deadline of pooled calls that set none.
    pub(crate) default_deadline: Option<Duration>,
    /// Decides about permissions; `None` grants all.
    pub(crate) permission_policy: Option<PermissionPolicy>,
    pub(crate) timer: Timer,
    pub(crate) events: EventBus,
    pub(crate) deferred_unloads: DeferredUnloads,
    pub(crate) staging: Arc<StagingArea>,
    pub(crate) abandoned_checks: AbandonedChecks,
    #[cfg(all(unix, feature = "process"))]
    pub(crate) processes: hotbay_process::Processes,
    /// Names of environment variables that processes inherit besides the usual ones.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    pub(crate) inherit_env: Vec<String>,
}

/// The rule that decides which files are accepted.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) allow_unverified: bool,
    pub(crate) allow_writable_by_others: bool,
    pub(crate) max_library_bytes: u64,
}

impl Rules {
    pub(crate) fn trust(&self) -> Trust {
        Trust { allow_writable_by_others: self.allow_writable_by_others }
    }
}

/// Returns the version of the plugin API that this host provides.
pub(crate) fn host_api() -> Version {
    Version::parse(hotbay_plugin::API_VERSION).expect("a package version is a valid version")
}
