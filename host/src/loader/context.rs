//! State that all loads of a host share.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use semver::Version;

use super::schemas::CheckedSchemas;
use super::settings::CurrentSettings;
use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Rules;
use crate::call::ContractCalls;
use crate::config::{ConfinementPolicy, HostLimits, Quarantine};
use crate::contracts::ContractRegistry;
use crate::event::EventBus;
use crate::generation::DeferredUnloads;
use crate::id::PluginName;
use crate::worker::Timer;

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
    /// What the configuration sets for single plugins.
    pub(crate) settings: Arc<CurrentSettings>,
    /// What is required of the confinement of plugins.
    pub(crate) confinement: ConfinementPolicy,
    /// The folders that are searched for plugins.
    #[cfg_attr(
        not(all(unix, feature = "process")),
        allow(dead_code, reason = "without processes, nothing is confined")
    )]
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) timer: Timer,
    pub(crate) events: EventBus,
    pub(crate) deferred_unloads: DeferredUnloads,
    pub(crate) staging: Arc<StagingArea>,
    pub(crate) abandoned_checks: AbandonedChecks,
    pub(crate) checked_schemas: CheckedSchemas,
    /// The contracts that the application uses.
    pub(crate) contracts: ContractRegistry,
    /// What plugins may call.
    pub(crate) contract_calls: Arc<dyn ContractCalls>,
    #[cfg(all(unix, feature = "process"))]
    pub(crate) processes: hotbay_process::Processes,
    /// The program that runs isolated libraries, if it was set.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    pub(crate) runner: Option<PathBuf>,
    /// Names of environment variables that processes inherit besides the usual ones.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    pub(crate) inherit_env: Vec<String>,
}

/// Returns the version of the plugin API that this host provides.
pub(crate) fn host_api() -> Version {
    Version::parse(hotbay_plugin::API_VERSION).expect("a package version is a valid version")
}

/// The application's decision whether a plugin gets a permission.
#[derive(Clone)]
pub(crate) struct PermissionPolicy(pub(crate) Arc<PermissionFn>);

type PermissionFn = dyn Fn(&PluginName, &str) -> bool + Send + Sync;

impl fmt::Debug for PermissionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PermissionPolicy").finish_non_exhaustive()
    }
}

/// The number of abandoned checks of a host that still run.
#[derive(Clone, Debug, Default)]
pub(crate) struct AbandonedChecks(pub(super) Arc<AtomicUsize>);
