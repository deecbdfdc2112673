//! Loads the plugins that a call needs, and shuts them down afterwards.

use std::time::Duration;

use hotbay::inspect::{self, Survey};
use hotbay::{
    Error, ErrorKind, Events, Host, HostBuilder, HostEvent, Pipeline, PipelineStep, PluginHandle,
};

use crate::args::Options;
use crate::failure::Failure;
use crate::output::say;
use crate::places::{builder, dirs, with_required};
use crate::report::warn;

/// How long calls that still run are waited for.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// How long they are waited for when nobody waits for their answers any more.
const GRACE_OF_LATE: Duration = Duration::from_millis(500);

/// Plugins that serve.
pub(crate) struct Started {
    /// Those that were asked for, in that order.
    pub(crate) plugins: Vec<PluginHandle>,
    host: Host,
    events: Events,
    grace: Duration,
}

/// Loads these plugins and what they require, nothing else.
pub(crate) fn start(names: &[String], options: &Options) -> Result<Started, Failure> {
    start_with(names, options, |builder| builder)
}

/// As [`start`], with a host that is set up further.
pub(crate) fn start_with(
    names: &[String],
    options: &Options,
    set_up: impl FnOnce(HostBuilder) -> HostBuilder,
) -> Result<Started, Failure> {
    let dirs = dirs(options);
    let Survey { plugins: surveyed, errors: problems, .. } =
        inspect::survey(&builder(options, &dirs));
    let folders = with_required(names, &surveyed, &problems, &dirs)?;
    let host = set_up(builder(options, &folders)).build()?;
    let events = host.events();
    let report = block_on(host.load_all());
    let is_wanted = |name: &str| names.iter().any(|wanted| wanted == name);
    let (mut wanted, others): (Vec<_>, Vec<_>) = report.refused.into_iter().partition(|one| {
        let folder = one.folder.file_name().and_then(|name| name.to_str());
        one.name.as_ref().map(|name| name.as_str()).or(folder).is_some_and(is_wanted)
    });
    // What it requires was refused: that is the cause, so it is told first.
    for one in others {
        warn(&Failure::from(one.error));
    }
    if !wanted.is_empty() {
        return Err(wanted.swap_remove(0).error.into());
    }
    let plugins = names.iter().map(|name| host.plugin(name));
    let plugins = plugins.collect::<Result<_, _>>()?;
    Ok(Started { plugins, host, events, grace: GRACE })
}

impl Started {
    /// These plugins in a row, each with as much time for an answer.
    pub(crate) fn pipeline(
        &self,
        names: &[String],
        wait_max: Option<Duration>,
    ) -> Result<Pipeline, Error> {
        self.host.pipeline(names.iter().map(|name| match wait_max {
            Some(wait_max) => PipelineStep::new(name).with_timeout(wait_max),
            None => PipelineStep::new(name),
        }))
    }

    /// Takes note of what a call failed with: one that came too late may never end.
    pub(crate) fn note(&mut self, error: &Error) {
        if error.kind() == ErrorKind::DeadlineExceeded {
            self.leave();
        }
    }

    /// Takes note that what still runs is not wanted.
    pub(crate) fn leave(&mut self) {
        self.grace = GRACE_OF_LATE;
    }

    /// Shuts everything down; what fails then is only a warning, for the reply is there.
    pub(crate) fn end(mut self) {
        drop(self.plugins);
        block_on(self.host.shutdown(self.grace));
        while let Some(event) = self.events.try_next() {
            if let HostEvent::ShutdownFailed { plugin, reason, .. } = event {
                say(&format!("warning: plugin `{plugin}` did not shut down well: {reason}"));
            }
        }
    }
}

/// Waits for a future of the host, whose work is done on threads of its own.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers asks nothing of the system")
        .block_on(future)
}
