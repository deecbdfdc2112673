//! Applies a configuration that changed while the host runs, and watches its file.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

use super::config_file::{ConfigFile, joined};
use super::inner::Inner;
use super::load_all::load_all;
use super::registry::UnloadScope;
use super::reload_request::ReloadRequest;
use crate::error::{Error, ErrorKind};
use crate::event::HostEvent;
use crate::loader::PluginSettings;
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
    /// keeps serving with its previous settings.
    pub failed: Vec<Error>,
}

/// Applies a configuration to the plugins of a host.
pub(super) fn apply_config(host: &Arc<Inner>, config: ConfigFile) -> ConfigChanges {
    let settings = config.plugin_settings();
    let (before, changed) = {
        let mut state = lock(&host.config);
        let before = host.context.settings.replace(settings.clone());
        let changed = match state.current.replace(config.clone()) {
            Some(earlier) => config.changed(&earlier),
            None => config.keys(),
        };
        (before, changed)
    };
    let mut changes = ConfigChanges::default();
    let mut compiled_in = BTreeSet::new();
    let mut reloads = Vec::new();
    for plugin in host.registry.serving() {
        let name = plugin.manifest.name();
        if settings.is_same_for(name, &before) {
            continue;
        }
        let folder = |settings: &PluginSettings| Some(settings.plugins.get(name)?.folder.clone());
        if plugin.folder.is_none() {
            compiled_in.insert(name.clone());
        } else if settings.is_disabled(name)
            || folder(&before).flatten() != folder(&settings).flatten()
        {
            let unloaded = host.unload(name.as_str(), UnloadScope::Any);
            changes.failed.extend(unloaded.err());
        } else {
            let (sender, receiver) = oneshot::channel();
            host.request_reload(name, ReloadRequest::Settings(sender));
            reloads.push((name.clone(), receiver));
        }
    }
    for (name, reload) in reloads {
        let reloaded = block_on(pin!(reload)).unwrap_or_else(|_| {
            Err(crate::error::bug!("the reload of `{name}` ended without a result"))
        });
        changes.failed.extend(reloaded.err());
    }
    let is_plugin = |path: &&Vec<String>| path.first().is_some_and(|key| key == "plugins");
    if changed.iter().any(|path| is_plugin(&path)) {
        let report = load_all(host);
        changes.failed.extend(report.refused.into_iter().map(|refused| refused.error));
    }
    for path in changed {
        let applies = match path.first().map(String::as_str) {
            Some("permissions") => compiled_in.is_empty(),
            Some("plugins") => {
                path.get(1).is_none_or(|name| !compiled_in.iter().any(|it| it.as_str() == name))
            }
            _ => false,
        };
        let list = if applies { &mut changes.applied } else { &mut changes.needs_restart };
        list.push(joined(&path));
    }
    changes
}

/// Reads the watched file again, and applies it if it changed.
fn follow_config(host: &Arc<Inner>, failure: &mut Failure) {
    let Some(current) = lock(&host.config).current.clone() else { return };
    let next = match ConfigFile::read_with(current.path(), host.context.rules.trust()) {
        Ok(next) => next,
        Err(error) => {
            if failure.is_new(&error) {
                let (reason, hint) = (error.full_message(), error.hint().map(str::to_owned));
                host.context.events.emit(HostEvent::ConfigRejected { reason, hint });
            }
            return;
        }
    };
    *failure = Failure::default();
    if next.changed(&current).is_empty() {
        return;
    }
    let ConfigChanges { applied, needs_restart, failed } = apply_config(host, next);
    for error in failed {
        let error = error.full_message();
        tracing::warn!(error, "a plugin does not follow the changed configuration");
    }
    host.context.events.emit(HostEvent::ConfigChanged { applied, needs_restart });
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
    let mut failure = Failure::default();
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        let Some(host) = host.upgrade() else { return };
        follow_config(&host, &mut failure);
    }
}
