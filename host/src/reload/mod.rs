//! The workshop: a folder or a compiled-in plugin becomes a generation, step by step. Every
//! step before the last can be taken back; what fails leaves nothing behind.

#[cfg(unix)]
mod apart;
mod candidate;
mod carry_out;
mod clamp;
#[cfg(unix)]
mod conform;
mod content;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod dependencies;
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
#[path = "no_dependencies.rs"]
mod dependencies;
mod desk;
mod doorbell;
mod flood;
mod grants;
mod inside;
mod line_kinds;
mod load;
#[cfg(unix)]
mod overseer;
mod plan;
mod plugin_log;
mod roots;
mod schema_check;
mod services;
mod settle;
mod signature;
mod source;
mod stop_first;
mod survey;
mod terms;
mod trial;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use semver::Version;

use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Trust;
use crate::config::{HostLimits, Quarantine};
use crate::event::Board;
use crate::generation::Keeper;
use crate::pool::Timer;
pub(crate) use candidate::Candidate;
pub(crate) use carry_out::{Swapped, swap};
#[cfg(unix)]
pub(crate) use conform::{Trying, check_program};
pub(crate) use content::Content;
pub(crate) use desk::{Desk, Taken};
pub(crate) use grants::Grant;
pub(crate) use load::{Build, Loaded, load};
pub(crate) use plan::{Dependent, Plan, plan};
pub(crate) use schema_check::AbandonedChecks;
pub(crate) use settle::{Answer, Look};
pub(crate) use source::{Made, Source};
pub use survey::{Built, Inspection, Surveyed};
pub(crate) use survey::{folders, inspect, read_artifact, survey as survey_one};
pub(crate) use trial::abi_report;
pub(crate) use watch::{Answerer, Visitor, Watch, Watching};

/// What every load of a host goes by.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) rules: Rules,
    pub(crate) limits: HostLimits,
    pub(crate) quarantine: Option<Quarantine>,
    pub(crate) want_frames: bool,
    /// How long pooled calls may take that say nothing.
    pub(crate) deadline_default: Option<Duration>,
    /// Who is asked for permissions; all are granted if nobody is.
    pub(crate) grant: Option<Grant>,
    pub(crate) clock: Timer,
    pub(crate) board: Board,
    pub(crate) keeper: Keeper,
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
    pub(crate) library_bytes_max: u64,
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
