//! Turns a folder or a compiled-in plugin into a generation, step by step. Every step before the
//! last can be undone; a failed load leaves nothing behind.

mod bounds;
mod candidate;
mod coalescing_queue;
#[cfg(all(unix, feature = "process"))]
mod confinement;
#[cfg(all(unix, feature = "conformance"))]
mod conformance;
mod context;
mod contract_check;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod dependencies;
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
#[path = "no_dependencies.rs"]
mod dependencies;
#[cfg(all(unix, feature = "process"))]
mod isolated;
mod library_loader;
mod load;
mod plan;
mod policy;
#[cfg(all(unix, feature = "process"))]
mod process_loader;
#[cfg(all(unix, feature = "process"))]
mod program_calls;
#[cfg(all(unix, feature = "process"))]
mod runner_program;
#[cfg(all(unix, feature = "process"))]
mod sandbox_paths;
mod schema_check;
mod schemas;
mod services;
mod settings;
mod start;
mod survey;
mod swap;

pub(crate) use candidate::Candidate;
pub use candidate::LoadOptions;
pub(crate) use candidate::reload_failed;
pub(crate) use coalescing_queue::{CoalescingQueue, Submission};
#[cfg(all(unix, feature = "conformance"))]
pub(crate) use conformance::{ConformanceRun, check_program};
#[cfg(feature = "runner")]
pub(crate) use context::host_api;
pub(crate) use context::{AbandonedChecks, LoaderContext, PermissionPolicy};
#[cfg(not(all(unix, feature = "process")))]
pub(crate) use context::{NO_PROCESSES, NO_PROCESSES_HINT};
pub(crate) use load::{Build, Constructor, Loaded, Source, load};
pub(crate) use plan::{Content, Dependent, Plan, plan};
pub use policy::InspectedPermission;
#[cfg(all(unix, feature = "process"))]
pub(crate) use runner_program::find_runner;
pub(crate) use schemas::{CheckedSchemas, schema_digests};
pub(crate) use settings::{CurrentSettings, PluginSettings};
#[cfg(feature = "config-file")]
pub(crate) use settings::{Grants, OnePlugin};
pub use survey::{Built, Inspection, SurveyedPlugin};
pub(crate) use survey::{
    SurveyRules, abi_report, contracts, files_to_sign, inspect, read_artifact, survey as survey_one,
};
pub(crate) use swap::{Swapped, swap};
