//! The steps up to a process that can be called: capabilities, launch, location, ready.

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
use crate::error::LoadStep;

impl TestKit {
    /// Asks twice what it can do; answers with that, if it is known.
    pub(crate) async fn ask_capabilities(&mut self) -> Option<&Capabilities> {
        let asked_at = Instant::now();
        let first = query_capabilities::capabilities(&self.program).await;
        let took = asked_at.elapsed().as_millis();
        let outcome = match first {
            Err(NotStarted { message, .. }) => failed(message),
            Ok(first) => {
                let second = query_capabilities::capabilities(&self.program).await;
                let outcome = same_twice(&first, second).map(|()| told(&first, took));
                self.capabilities = Some(first);
                outcome
            }
        };
        self.tell("capabilities", outcome);
        self.capabilities.as_ref()
    }

    /// Starts it for the first time, and tells of each step of that.
    pub(super) async fn first_start(&mut self) {
        let began_at = Instant::now();
        let not_started = self.start(None).await.err();
        let took = began_at.elapsed().as_millis();
        let Some(NotStarted { step, message, .. }) = not_started else {
            let launched = self.config_channel();
            self.report.passed("launch", format!("the config was given by {launched}"));
            let outcome = self
                .live()
                .map_err(|not| not.clone())
                .and_then(|started| location(started, self.is_ours()));
            self.tell("location", outcome);
            self.report
                .passed("ready", format!("`/healthz` answered 200, {took} ms after the launch"));
            return;
        };
        let row = [
            ("launch", LoadStep::Stage, ""),
            ("launch", LoadStep::Config, ""),
            ("launch", LoadStep::Launch, "it was started"),
            ("location", LoadStep::Location, "it told where it can be reached"),
            ("ready", LoadStep::Ready, ""),
        ];
        for (name, of, done) in row {
            if of == step {
                self.report.failed(name, message.clone());
                break;
            }
            if !done.is_empty() {
                self.report.passed(name, done);
            }
        }
        self.not_running = message;
    }

    /// How its config is given to it, for people.
    pub(super) fn config_channel(&self) -> &'static str {
        let config = |told| start::config(&self.program, told).len();
        let channel = self.capabilities.as_ref().map(|told| Channel::of(told, config(told)));
        channel.unwrap_or(Channel::Argument).name()
    }
}

fn same_twice(
    first: &Capabilities,
    second: Result<Capabilities, NotStarted>,
) -> Result<(), StepFailure> {
    match second {
        Ok(second) if second == *first => Ok(()),
        Ok(_) => failed(
            "asked twice, it gave two answers; wanted the same each time, since a host asks again \
             before every load",
        ),
        Err(NotStarted { message, .. }) => failed(format!("asked a second time: {message}")),
    }
}

fn told(capabilities: &Capabilities, took_ms: u128) -> String {
    let endpoints: Vec<_> = capabilities.endpoints.iter().map(String::as_str).collect();
    match endpoints.as_slice() {
        [] => format!("an older dialect, in {took_ms} ms"),
        endpoints => format!("{}, in {took_ms} ms", endpoints.join(", ")),
    }
}

/// Whether the place where it listens is one for this host only.
fn location(started: &Started, is_ours: bool) -> Outcome {
    let location = started.live.client.location();
    if let Some(noise) = &started.noise
        && is_ours
    {
        return failed(format!(
            "the first line on stdout is `{}`; wanted the location there; write logs to stderr",
            noise.chars().take(80).collect::<String>()
        ));
    }
    match location {
        Location::Unix(path) if is_ours => {
            let folder = started.folder.path();
            if is_inside(path, folder) {
                return Ok(location.to_string());
            }
            failed(format!(
                "its socket is `{}`; wanted it in the folder that HOTBAY_SOCKET_DIR names, which \
                 only this user can enter (this time `{}`)",
                path.display(),
                folder.display()
            ))
        }
        Location::Unix(_) => Ok(location.to_string()),
        Location::Tcp(address) => {
            let found = listeners::listening(started.live.pid, address.port());
            match found.iter().find(|found| !found.is_loopback()) {
                Some(open) => failed(format!(
                    "port {} is listened at {open}, where other machines can reach it; wanted a \
                     Unix socket, or bind to 127.0.0.1",
                    address.port()
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
