//! The workshop: a folder or a compiled-in plugin becomes a generation, step by step. Every
//! step before the last can be taken back; what fails leaves nothing behind.

mod abi_report;
mod callsites;
mod candidate;
mod coalescing_queue;
#[cfg(unix)]
mod conformance;
mod content;
mod debounce;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod dependencies;
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
#[path = "no_dependencies.rs"]
mod dependencies;
mod effective_limits;
mod fs_watcher;
mod library_loader;
mod load;
mod load_options;
mod permissions;
mod plan;
mod plugin_log;
mod policy;
#[cfg(unix)]
mod process_loader;
#[cfg(unix)]
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
use crate::pool::Timer;
pub(crate) use abi_report::abi_report;
pub(crate) use candidate::Candidate;
pub(crate) use coalescing_queue::{CoalescingQueue, Submission};
#[cfg(unix)]
pub(crate) use conformance::{ConformanceRun, check_program};
pub(crate) use content::Content;
pub(crate) use debounce::{Attempt, AttemptOutcome};
pub(crate) use load::{Build, Loaded, load};
pub use load_options::LoadOptions;
pub(crate) use permissions::Grant;
pub(crate) use plan::{Dependent, Plan, plan};
pub(crate) use schema_check::AbandonedChecks;
pub(crate) use source::{Constructor, Source};
pub use survey::{Built, Inspection, SurveyedPlugin};
pub(crate) use survey::{folders, inspect, read_artifact, survey as survey_one};
pub(crate) use swap::{Swapped, swap};
pub(crate) use watch::{ChangeHandler, OutcomeSender, Watch, WatchOptions};

/// What every load of a host goes by.
#[derive(Debug)]
pub(crate) struct LoaderContext {
    pub(crate) rules: Rules,
    pub(crate) limits: HostLimits,
    pub(crate) quarantine: Option<Quarantine>,
    pub(crate) want_frames: bool,
    /// How long pooled calls may take that say nothing.
    pub(crate) default_deadline: Option<Duration>,
    /// Who is asked for permissions; all are granted if nobody is.
    pub(crate) grant: Option<Grant>,
    pub(crate) clock: Timer,
    pub(crate) board: EventBus,
    pub(crate) keeper: DeferredUnloads,
    pub(crate) staging: Arc<StagingArea>,
    pub(crate) abandoned_checks: AbandonedChecks,
    #[cfg(unix)]
    pub(crate) processes: crate::supervisor::Processes,
    /// Names of the environment that processes get besides the usual ones.
    pub(crate) environment: Vec<String>,
}

/// What files are accepted.
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

/// The plugin API that this host offers.
pub(crate) fn host_api() -> Version {
    Version::parse(hotbay_plugin::API_VERSION).expect("the version of a package is one")
}
