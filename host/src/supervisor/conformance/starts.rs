//! The steps up to a process that can be called: capabilities, launch, location, readiness.

use std::path::Path;
use std::time::Instant;

use super::super::config_delivery::Channel;
use super::super::dialect::Capabilities;
use super::super::listeners;
use super::super::location::Location;
use super::super::query_capabilities;
use super::super::start::{self, NotStarted, Started};
use super::kit::TestKit;
use super::{Outcome, StepFailure, failed};
use crate::error::{Diagnosis, LoadStep};

impl TestKit {
    /// Queries the capabilities twice, and returns them if known.
    pub(crate) async fn ask_capabilities(&mut self) -> Option<&Capabilities> {
        let queried_at = Instant::now();
        let first = query_capabilities::capabilities(&self.program).await;
        let took = queried_at.elapsed().as_millis();
        let outcome = match first {
            Err(NotStarted { reason, .. }) => failed(reason),
            Ok(first) => {
                let second = query_capabilities::capabilities(&self.program).await;
                let outcome = check_equal(&first, second).map(|()| describe(&first, took));
                self.capabilities = Some(first);
                outcome
            }
        };
        self.record("capabilities", outcome);
        self.capabilities.as_ref()
    }

    /// Starts the program for the first time, and records each step of the start.
    pub(super) async fn first_start(&mut self) {
        let began_at = Instant::now();
        let not_started = self.start(None).await.err();
        let took = began_at.elapsed().as_millis();
        let Some(NotStarted { step, reason, .. }) = not_started else {
            let launched = self.config_channel();
            self.report.passed("launch", format!("the config was passed via {launched}"));
            let outcome = self
                .live()
                .map_err(|failure| failure.clone())
                .and_then(|started| location(started, self.is_ours()));
            self.record("location", outcome);
            self.report
                .passed("ready", format!("`/healthz` returned 200, {took} ms after the launch"));
            return;
        };
        let row = [
            ("launch", LoadStep::Stage, ""),
            ("launch", LoadStep::Config, ""),
            ("launch", LoadStep::Launch, "it was started"),
            ("location", LoadStep::Location, "it printed its location"),
            ("ready", LoadStep::Ready, ""),
        ];
        for (name, of, done) in row {
            if of == step {
                self.report.failed(name, reason.clone());
                break;
            }
            if !done.is_empty() {
                self.report.passed(name, done);
            }
        }
        self.not_running = reason.message;
    }

    /// Returns the name of the channel by which the program gets its config.
    pub(super) fn config_channel(&self) -> &'static str {
        let config = |capabilities| start::config(&self.program, capabilities).len();
        let channel = self.capabilities.as_ref().map(|found| Channel::of(found, config(found)));
        channel.unwrap_or(Channel::Argument).name()
    }
}

fn check_equal(
    first: &Capabilities,
    second: Result<Capabilities, NotStarted>,
) -> Result<(), StepFailure> {
    match second {
        Ok(second) if second == *first => Ok(()),
        Ok(_) => failed(
            "two capabilities queries returned different results; expected equal ones, since a \
             host queries again before every load",
        ),
        Err(NotStarted { reason, .. }) => {
            failed(reason.map_message(|reason| format!("the second query failed: {reason}")))
        }
    }
}

fn describe(capabilities: &Capabilities, took_ms: u128) -> String {
    let endpoints: Vec<_> = capabilities.endpoints.iter().map(String::as_str).collect();
    match endpoints.as_slice() {
        [] => format!("an older dialect, in {took_ms} ms"),
        endpoints => format!("{}, in {took_ms} ms", endpoints.join(", ")),
    }
}

/// Checks that only this host can reach the location where the program listens.
fn location(started: &Started, is_ours: bool) -> Outcome {
    let location = started.live.client.location();
    if let Some(line) = &started.noise
        && is_ours
    {
        let line: String = line.chars().take(80).collect();
        return failed(Diagnosis::new(
            format!("the first line on stdout is `{line}`; expected the location there"),
            "write logs to stderr",
        ));
    }
    match location {
        Location::Unix(path) if is_ours => {
            let folder = started.folder.path();
            if is_inside(path, folder) {
                return Ok(location.to_string());
            }
            failed(format!(
                "its socket is `{}`; expected it in the folder named by HOTBAY_SOCKET_DIR, which \
                 only this user can enter (`{}` in this run)",
                path.display(),
                folder.display()
            ))
        }
        Location::Unix(_) => Ok(location.to_string()),
        Location::Tcp(address) => {
            let found = listeners::listening(started.live.pid, address.port());
            match found.iter().find(|found| !found.is_loopback()) {
                Some(open) => failed(Diagnosis::new(
                    format!(
                        "port {} is bound to {open}, where other machines can reach it",
                        address.port()
                    ),
                    "bind it to 127.0.0.1, or use a Unix socket",
                )),
                None => Ok(location.to_string()),
            }
        }
    }
}

fn is_inside(path: &Path, folder: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(folder).is_some_and(|folder| path.parent().and_then(real) == Some(folder))
}
