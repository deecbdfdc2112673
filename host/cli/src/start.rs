//! Loads the plugins that a call needs, and shuts them down afterward.

use std::time::Duration;

use hotbay::inspect::{self, Survey, SurveyedPlugin};
use hotbay::{
    Discovered, Discovery, Error, ErrorKind, Events, Host, HostBuilder, HostEvent, Pipeline,
    PipelineStep, PluginHandle,
};

use crate::args::Options;
use crate::failure::Failure;
use crate::output::{print_hint, print_message};
use crate::plugin_dirs::{builder, dirs, with_required};
use crate::survey_report::{self, print_warning};

/// Time for running calls at the shutdown.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Time for running calls whose replies are not needed.
const SHORT_GRACE: Duration = Duration::from_millis(500);

/// Plugins that serve calls.
pub(crate) struct LoadedPlugins {
    /// The requested plugins, in the order of the request.
    pub(crate) plugins: Vec<PluginHandle>,
    host: Host,
    events: Events,
    grace: Duration,
}

/// Loads these plugins and what they require, nothing else.
pub(crate) fn start(names: &[String], options: &Options) -> Result<LoadedPlugins, Failure> {
    start_with(names, options, |builder| builder)
}

/// Loads plugins like [`start`], with a host that `configure` sets up further.
pub(crate) fn start_with(
    names: &[String],
    options: &Options,
    configure: impl FnOnce(HostBuilder) -> HostBuilder,
) -> Result<LoadedPlugins, Failure> {
    let dirs = dirs(options);
    let Survey { plugins: surveyed, errors, .. } = inspect::survey(&builder(options, &dirs));
    let is_disabled =
        |one: &&SurveyedPlugin| one.is_disabled && names.contains(&survey_report::name(one));
    if let Some(one) = surveyed.iter().find(is_disabled) {
        let name = survey_report::name(one);
        let message = format!("plugin `{name}` is disabled");
        let hint = format!("remove `plugins.{name}.enabled` from the configuration of the host");
        return Err(Failure::new("not_found", message).with_hint(hint));
    }
    let needed = Needed(with_required(names, &surveyed, &errors, &dirs)?);
    let host = configure(builder(options, &[]).hot_reload(false).discovery(needed)).build()?;
    let events = host.events();
    let report = block_on(host.load_all());
    let is_requested = |name: &str| names.iter().any(|requested| requested == name);
    let (mut requested, others): (Vec<_>, Vec<_>) = report.refused.into_iter().partition(|one| {
        let folder = one.folder.file_name().and_then(|name| name.to_str());
        one.name.as_ref().map(|name| name.as_str()).or(folder).is_some_and(is_requested)
    });
    // A refused requirement is the cause, so it is reported first.
    for one in others {
        print_warning(&Failure::from(one.error));
    }
    if !requested.is_empty() {
        return Err(requested.swap_remove(0).error.into());
    }
    let plugins = names.iter().map(|name| host.plugin(name));
    let plugins = plugins.collect::<Result<_, _>>()?;
    Ok(LoadedPlugins { plugins, host, events, grace: GRACE })
}

/// The plugins to load, and no others.
pub(crate) struct Needed(pub(crate) Vec<Discovered>);

impl Discovery for Needed {
    fn discover(&self) -> Vec<Result<Discovered, Error>> {
        self.0.iter().cloned().map(Ok).collect()
    }
}

impl LoadedPlugins {
    /// Creates a pipeline of these plugins, with `deadline` for each of them.
    pub(crate) fn pipeline(
        &self,
        names: &[String],
        deadline: Option<Duration>,
    ) -> Result<Pipeline, Error> {
        self.host.pipeline(names.iter().map(|name| match deadline {
            Some(deadline) => PipelineStep::new(name).with_timeout(deadline),
            None => PipelineStep::new(name),
        }))
    }

    /// Records the error of a call: one that exceeded its deadline may never return.
    pub(crate) fn record_error(&mut self, error: &Error) {
        if error.kind() == ErrorKind::DeadlineExceeded {
            self.shorten_grace();
        }
    }

    /// Gives running calls less time at the shutdown, since their replies are not needed.
    pub(crate) fn shorten_grace(&mut self) {
        self.grace = SHORT_GRACE;
    }

    /// Shuts all plugins down. Failures are warnings, since the reply arrived.
    pub(crate) fn shut_down(mut self) {
        drop(self.plugins);
        block_on(self.host.shutdown(self.grace));
        while let Some(event) = self.events.try_next() {
            if let HostEvent::ShutdownFailed { plugin, reason, hint, .. } = event {
                print_message(&format!("warning: plugin `{plugin}` failed to shut down: {reason}"));
                hint.iter().for_each(|hint| print_hint(hint));
            }
        }
    }
}

/// Waits for a future of the host, which does its work on other threads.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs no resources of the system")
        .block_on(future)
}
