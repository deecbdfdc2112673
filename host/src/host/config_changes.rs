//! Applies a configuration that changed while the host runs, and watches its file.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::config_file::{ConfigFile, ConfigValue};
use super::inner::Inner;
use super::load_all::load_all;
use super::registry::{Loadable, UnloadScope};
use super::reload_request::ReloadRequest;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::event::HostEvent;
use crate::id::PluginName;
use crate::loader::{Candidate, LoadOptions, PluginSettings};
use crate::sync::{block_on, lock};

/// Interval of the checks whether a watched configuration changed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The outcome of [`Host::apply_config`](crate::Host::apply_config).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ConfigChanges {
    /// The changed values that apply now, as paths such as `plugins.storage.config.file`.
    pub applied: Vec<String>,
    /// The changed values that apply after a restart.
    pub needs_restart: Vec<String>,
    /// The errors of plugins that were to be reloaded, loaded or unloaded. A plugin whose reload failed
    /// keeps serving with its previous settings, unless it cannot be confined as it must be now: then
    /// it is unloaded, and loaded again by a later change that permits it.
    pub failed: Vec<Error>,
}

/// Applies a configuration to the plugins of a host.
pub(super) fn apply_config(host: &Arc<Inner>, config: ConfigFile) -> ConfigChanges {
    let settings = Arc::new(config.plugin_settings());
    let (before, changed, pending) = {
        let mut state = lock(&host.config);
        let before = host.context.settings.replace(Arc::clone(&settings));
        let changed = match state.current.replace(config.clone()) {
            Some(earlier) => config.changed(&earlier),
            None => config.keys(),
        };
        let pending = match &state.built_with {
            Some(built_with) => config.changed(built_with),
            None => config.keys(),
        };
        (before, changed, pending)
    };
    let mut outcome = Outcome::default();
    follow_settings(host, &settings, &mut outcome);
    // Only what the change adds: the application may have left or unloaded the others on purpose.
    let refused = names_of(&outcome.failed);
    let stopped = std::mem::replace(&mut lock(&host.config).stopped, outcome.stopped.clone());
    let is_added = |name: &PluginName| match settings.folder(name) {
        _ if refused.contains(name) => false,
        _ if stopped.contains(name) => true,
        Some(folder) => before.folder(name) != Some(folder) || before.is_disabled(name),
        None => before.is_disabled(name),
    };
    let names = settings.plugins.keys().chain(before.plugins.keys()).chain(&stopped);
    let names: BTreeSet<_> = names.collect();
    if names.into_iter().any(is_added) {
        let report = load_all(host, &is_added);
        let refused = report.refused.into_iter().map(|refused| refused.error);
        // Folders that cannot be read are not of the change.
        outcome.failed.extend(refused.filter(|error| error.plugin().is_some_and(&is_added)));
    }
    // Those that could not be loaded again wait for the next change.
    let still_stopped: Vec<_> =
        stopped.into_iter().filter(|name| names_of(&outcome.failed).contains(name)).collect();
    lock(&host.config).stopped.extend(still_stopped);
    let Outcome { compiled_in, failed, .. } = outcome;
    let failed_names = names_of(&failed);
    lock(&host.config).failed = failed_names.clone();
    let mut changes = ConfigChanges { failed, ..ConfigChanges::default() };
    for path in changed {
        let plugin = |names: &BTreeSet<PluginName>| {
            path.get(1).is_some_and(|name| names.iter().any(|it| it.as_str() == name))
        };
        let applies = match path.first().map(String::as_str) {
            Some("plugins") if plugin(&failed_names) => continue,
            Some("sandbox") if is_fixed(&path) => false,
            Some("permissions" | "sandbox") if !failed_names.is_empty() => continue,
            Some("permissions" | "sandbox") => compiled_in.is_empty(),
            Some("plugins") => !plugin(&compiled_in),
            _ => false,
        };
        // A value with which the host was built needs no restart.
        let list = match applies || !pending.contains(&path) {
            true => &mut changes.applied,
            false => &mut changes.needs_restart,
        };
        list.push(ConfigValue::path_of(&path));
    }
    changes
}

/// Returns whether a value of `sandbox` is that of the host, and no bound.
fn is_fixed(path: &[String]) -> bool {
    path.get(1).is_some_and(|field| {
        ["required", "isolate_libraries", "namespaces", "state_dir", "cgroup"]
            .contains(&field.as_str())
    })
}

/// What came of the plugins whose settings changed.
#[derive(Default)]
struct Outcome {
    compiled_in: BTreeSet<PluginName>,
    failed: Vec<Error>,
    /// Those that were unloaded, since they must not keep what they were granted before.
    stopped: BTreeSet<PluginName>,
}

/// Reloads or unloads the serving plugins that were started with other settings.
fn follow_settings(host: &Arc<Inner>, settings: &Arc<PluginSettings>, outcome: &mut Outcome) {
    let (mut reloads, mut unloads) = (Vec::new(), Vec::new());
    for plugin in host.registry.serving() {
        let name = plugin.manifest.name();
        if settings.is_same_for(&plugin.manifest, &plugin.settings) {
            continue;
        }
        let next = settings.folder(name);
        if plugin.folder.is_none() {
            outcome.compiled_in.insert(name.clone());
        } else if settings.is_disabled(name) {
            unloads.push(name.clone());
        } else if plugin.settings.folder(name) != next {
            // One that cannot be read does not replace the plugin.
            let options = Arc::new(LoadOptions::new().with_name(name.as_str()));
            let read = |folder| Candidate::read_with(folder, &host.context.rules, &options);
            match next.map(|folder| read(folder)).transpose() {
                Ok(_) => unloads.push(name.clone()),
                Err(error) => outcome.failed.push(error.of(name)),
            }
        } else {
            let (sender, receiver) = oneshot::channel();
            host.request_reload(name, ReloadRequest::Caller(sender));
            reloads.push(receiver);
        }
    }
    for reload in reloads {
        // Another request that replaced this one reads the same settings.
        if let Ok(Err(error)) = block_on(pin!(reload))
            && error.kind() != ErrorKind::Superseded
        {
            if error.step() == Some(LoadStep::Confine)
                && let Some(name) = error.plugin()
            {
                outcome.stopped.insert(name.clone());
                unloads.push(name.clone());
            }
            outcome.failed.push(error);
        }
    }
    outcome.failed.extend(unload(host, unloads));
}

/// Unloads plugins, those that others require after them; returns the errors.
fn unload(host: &Arc<Inner>, mut plugins: Vec<PluginName>) -> Vec<Error> {
    loop {
        let (mut failed, before) = (Vec::new(), plugins.len());
        plugins.retain(|name| match host.unload(name.as_str(), UnloadScope::Any) {
            Err(error) if error.kind() == ErrorKind::Requires => {
                failed.push(error);
                true
            }
            // It was unloaded meanwhile.
            _ => false,
        });
        if plugins.is_empty() || plugins.len() == before {
            return failed;
        }
    }
}

fn names_of(errors: &[Error]) -> BTreeSet<PluginName> {
    errors.iter().filter_map(|error| error.plugin().cloned()).collect()
}

/// What the watch of a file has found.
#[derive(Default)]
struct Found {
    failure: Failure,
    /// A change that is applied if the next read finds the same: the file may be written now.
    change: Option<ConfigFile>,
}

/// Reads the watched file again, and applies it if it changed.
fn follow_config(host: &Arc<Inner>, found: &mut Found) {
    let Some(current) = lock(&host.config).current.clone() else { return };
    let next = match current.read_again(host.context.rules.trust()) {
        Ok(next) => next,
        Err(error) => {
            found.change = None;
            if found.failure.is_new(&error) {
                let (reason, hint) = (error.full_message(), error.hint().map(str::to_owned));
                host.context.events.emit(HostEvent::ConfigRejected { reason, hint });
            }
            return;
        }
    };
    found.failure = Failure::default();
    if next.is_same(&current) {
        found.change = None;
        return follow_late(host);
    }
    match found.change.replace(next) {
        Some(earlier) if found.change.as_ref().is_some_and(|it| it.is_same(&earlier)) => {}
        _ => return,
    }
    let Some(next) = found.change.take() else { return };
    let ConfigChanges { applied, needs_restart, failed } = apply_config(host, next);
    for error in &failed {
        let error = error.full_message();
        tracing::warn!(error, "a plugin does not follow the changed configuration");
    }
    let failed = names_of(&failed).into_iter().collect();
    host.context.events.emit(HostEvent::ConfigChanged { applied, needs_restart, failed });
}

/// Lets plugins follow that were loaded while the configuration changed.
fn follow_late(host: &Arc<Inner>) {
    let settings = host.context.settings.load();
    let failed = lock(&host.config).failed.clone();
    let is_late = |plugin: &Loadable| {
        plugin.folder.is_some()
            && !failed.contains(plugin.manifest.name())
            && !settings.is_same_for(&plugin.manifest, &plugin.settings)
    };
    if host.registry.serving().iter().any(is_late) {
        let mut outcome = Outcome::default();
        follow_settings(host, &settings, &mut outcome);
        let mut state = lock(&host.config);
        state.failed.extend(names_of(&outcome.failed));
        state.stopped.extend(outcome.stopped);
    }
}

/// The last mistake of a watched file.
#[derive(Default)]
struct Failure {
    message: String,
    is_reported: bool,
}

impl Failure {
    /// Returns whether a mistake is to be reported. It is when it was found twice: the file may be
    /// written at this moment.
    fn is_new(&mut self, error: &Error) -> bool {
        let message = error.full_message();
        if self.message != message {
            *self = Self { message, is_reported: false };
            return false;
        }
        !std::mem::replace(&mut self.is_reported, true)
    }
}

/// Starts to watch the file of the configuration, if there is one.
pub(super) fn watch_config(
    host: &Arc<Inner>,
    poll_interval: Option<Duration>,
) -> Result<(), Error> {
    let (sender, stopped) = channel();
    {
        let mut state = lock(&host.config);
        if state.current.is_none() {
            return Ok(());
        }
        state.watching = Some(sender);
    }
    let weak = Arc::downgrade(host);
    let interval = poll_interval.unwrap_or(POLL_INTERVAL);
    host.spawn("hotbay-config", move || follow(&weak, &stopped, interval)).map_err(|error| {
        let message = "cannot start the thread that watches the configuration";
        Error::new(ErrorKind::Overloaded, message).caused_by(error)
    })
}

fn follow(host: &Weak<Inner>, stopped: &Receiver<()>, interval: Duration) {
    let mut found = Found::default();
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        let Some(host) = host.upgrade() else { return };
        follow_config(&host, &mut found);
    }
}
