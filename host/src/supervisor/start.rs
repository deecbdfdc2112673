//! Starts a program until it can be called: launch → location → ready, within one timeout. A failed
//! start leaves nothing behind.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

use super::PIPE_DRAIN_TIMEOUT;
use super::child::{Child, ChildLimits, Launch};
use super::config_delivery;
use super::config_types;
use super::diagnose;
use super::dialect::{Capabilities, Dialect};
use super::folder::LaunchFolder;
use super::http::{Async, Client, HttpRequest};
use super::lines::Tail;
use super::location::{Line, Location};
use super::pipes::{self, Reader, SharedTail};
use super::program::{ObserverRef, Program};
use super::random::token;
use super::services::{self, HostSocket};
use super::state::Live;
use crate::error::LoadStep;
use crate::sync::lock;

/// Delay between two readiness polls; doubled each time.
const INITIAL_POLL_INTERVAL: Duration = Duration::from_millis(1);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The reason a process did not start.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) step: LoadStep,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Whether it exited with code 0, as an idle process does.
    pub(super) has_exited_with_success: bool,
}

impl NotStarted {
    pub(crate) fn at(step: LoadStep, message: impl fmt::Display) -> Self {
        Self { step, message: message.to_string(), hint: None, has_exited_with_success: false }
    }
}

/// A process that can be called, and its resources.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) live: Arc<Live>,
    pub(super) readers: Vec<Reader>,
    pub(super) tail: SharedTail,
    pub(super) services: Option<HostSocket>,
    /// The first line that it printed before its location.
    pub(super) noise: Option<String>,
    /// The printed address, if it covers all network interfaces of the machine.
    pub(super) printed_beyond_loopback: Option<SocketAddr>,
    /// Dropped last: it contains the sockets.
    pub(super) folder: LaunchFolder,
}

/// Returns the launch of a program, without a guardian.
pub(super) fn launch(program: &Program, args: Vec<OsString>, tag: String) -> Launch {
    let limits = &program.limits;
    let mut environment = program.environment.clone();
    environment.push(("HOTBAY_PROTOCOL".into(), "1".into()));
    Launch {
        program: program.staged.path(),
        args: program.args.iter().cloned().chain(args).collect(),
        folder: program.folder.clone(),
        environment,
        limits: ChildLimits {
            memory_bytes: limits.memory_bytes,
            descriptors: limits.descriptors,
            cpu_s: limits.cpu_s,
        },
        tag,
        guarded: false,
        remove_at_end: None,
    }
}

/// Returns the program's output, to be appended to a message.
pub(super) fn output_suffix(tail: &Tail) -> String {
    let output = diagnose::output_of(tail);
    output.map_or_else(String::new, |output| format!("\n{output}"))
}

/// Starts a program and waits until it can be called.
pub(super) async fn start(
    program: &Program,
    capabilities: &Capabilities,
    observer: &ObserverRef,
) -> Result<Started, NotStarted> {
    let until = Instant::now() + program.limits.start_timeout;
    let failed = |message: String| NotStarted::at(LoadStep::Launch, message);
    program.ensure_intact().await.map_err(|(message, hint)| NotStarted {
        hint,
        ..NotStarted::at(LoadStep::Stage, message)
    })?;
    let folder = std::path::absolute(std::env::temp_dir())
        .and_then(|parent| LaunchFolder::make(&parent))
        .map_err(|error| {
            failed(format!("cannot create a private folder for its sockets: {error}"))
        })?;
    let (tag, token) = token()
        .and_then(|tag| Ok((tag, token()?)))
        .map_err(|error| failed(format!("cannot generate random numbers: {error}")))?;
    let header = HeaderValue::try_from(&token).map_err(|error| failed(error.to_string()))?;
    let is_ours = matches!(capabilities.dialect, Dialect::Ours { .. });
    let mut launch = launch(program, Vec::new(), tag);
    launch.guarded = true;
    launch.remove_at_end = Some(folder.path().to_owned());
    let mut services = None;
    if is_ours {
        let socket = folder.path().join("host.socket");
        let served = services::serve(&socket, &token, Arc::clone(observer));
        services = Some(served.map_err(|error| {
            failed(format!("cannot create the socket of the host's services: {error}"))
        })?);
        let mut add = |name: &str, value: OsString| launch.environment.push((name.into(), value));
        add("HOTBAY_SOCKET_DIR", folder.path().into());
        add("HOTBAY_TOKEN", token.into());
        add("HOTBAY_HOST", format!("http+unix://{}", socket.display()).into());
    } else {
        // Their SDK creates its socket there.
        launch.environment.retain(|(name, _)| name != "TMPDIR");
        launch.environment.push(("TMPDIR".into(), folder.path().into()));
    }
    let config = config(program, capabilities);
    let config_file = config_delivery::give(&mut launch, config, capabilities, folder.path())?;
    let mut child = Child::spawn_with_retries(&launch, Child::spawn)
        .await
        .map_err(|error| failed(program.explain_spawn_error(&error)))?;
    let tail = SharedTail::default();
    let (location_sender, mut lines) = mpsc::channel(16);
    let mut readers = Vec::new();
    if let Some(stdout) = child.take_stdout() {
        let (observer, tail) = (Arc::clone(observer), Arc::clone(&tail));
        readers.push(pipes::read(stdout, observer, tail, Some(location_sender)));
    }
    if let Some(stderr) = child.take_stderr() {
        readers.push(pipes::read(stderr, Arc::clone(observer), Arc::clone(&tail), None));
    }
    let mut starting = Starting {
        child,
        readers,
        tail,
        until,
        program,
        noise: None,
        printed_beyond_loopback: None,
    };
    let location = starting.location(&mut lines, observer).await;
    drop(lines);
    let reached = match location {
        Ok(location) => {
            let client = Client::new(location, Some(header));
            starting.ready(&client).await.map(|()| client)
        }
        Err(failed) => Err(failed),
    };
    let Starting { child, readers, tail, noise, printed_beyond_loopback, .. } = starting;
    match reached {
        Ok(client) => {
            lock(&tail).discard_first();
            if let Some(file) = config_file {
                // On failure it is removed with its folder.
                let _ = std::fs::remove_file(file);
            }
            let live = Arc::new(Live {
                pid: child.pid(),
                fixed_socket: fixed_socket(&client, &folder, is_ours),
                client,
                end: OnceLock::new(),
            });
            Ok(Started {
                child,
                live,
                readers,
                tail,
                services,
                noise,
                printed_beyond_loopback,
                folder,
            })
        }
        Err(failed) => {
            let _ = child.stop(Duration::ZERO).await;
            Err(failed)
        }
    }
}

/// Returns the socket of a program that does not use the host's folder, but a fixed path.
fn fixed_socket(client: &Client, folder: &LaunchFolder, is_ours: bool) -> Option<PathBuf> {
    match client.location() {
        Location::Unix(path) if !is_ours && !path.starts_with(folder.path()) => Some(path.clone()),
        _ => None,
    }
}

/// Returns the start configuration in the protocol's form.
pub(super) fn config(program: &Program, capabilities: &Capabilities) -> String {
    let is_ours = matches!(capabilities.dialect, Dialect::Ours { .. });
    // In the older dialects zero does not disable the timeout, and an idle exit may race with a
    // call: the host stops them itself.
    let idle_ns = match is_ours {
        true => u64::try_from(program.limits.idle_timeout.as_nanos()).unwrap_or(u64::MAX),
        false => u64::MAX,
    };
    let delivery = config_types::delivery(capabilities, &program.config);
    let entries = delivery.entries.into_iter().map(|(name, value)| {
        let data = STANDARD.encode(value.to_string());
        json!({ "type": name, "data": data })
    });
    json!({
        "id": program.name.as_str(),
        "type": program.socket_type,
        // Readers of the older dialects use signed numbers.
        "idleTimeout": idle_ns.min(i64::MAX as u64),
        "configTypes": entries.collect::<Vec<_>>(),
    })
    .to_string()
}

/// A process that cannot be called yet.
struct Starting<'p> {
    child: Child,
    readers: Vec<Reader>,
    tail: SharedTail,
    until: Instant,
    program: &'p Program,
    noise: Option<String>,
    printed_beyond_loopback: Option<SocketAddr>,
}

impl Starting<'_> {
    /// Waits for the line with its location. Any other line is logged.
    async fn location(
        &mut self,
        lines: &mut mpsc::Receiver<String>,
        observer: &ObserverRef,
    ) -> Result<Location, NotStarted> {
        let step = LoadStep::Location;
        let mut wrong = String::new();
        loop {
            tokio::select! {
                // In this order: lines may come forever, and the last ones before an exit count.
                biased;
                () = tokio::time::sleep_until(self.until.into()) => {
                    let message = format!(
                        "it did not print its location within {} ms; expected a line such as \
                         `http+unix:///path/to.socket`, flushed{wrong}{}",
                        self.program.limits.start_timeout.as_millis(),
                        output_suffix(&lock(&self.tail))
                    );
                    return Err(NotStarted::at(step, message));
                }
                line = lines.recv() => {
                    let Some(line) = line else { return Err(self.stdout_closed(step).await) };
                    if let Some(location) = self.read_line(line, &mut wrong, observer)? {
                        return Ok(location);
                    }
                }
                status = self.child.wait() => {
                    return Err(self.exited_with_lines(status, lines, &mut wrong, observer).await);
                }
            }
        }
    }

    /// Parses a line as location. Logs any other line and returns `None`.
    fn read_line(
        &mut self,
        line: String,
        wrong: &mut String,
        observer: &ObserverRef,
    ) -> Result<Option<Location>, NotStarted> {
        let failed = |message: String| NotStarted::at(LoadStep::Location, message);
        match Location::parse(&line) {
            Line::Location(location) => {
                self.printed_beyond_loopback = Location::beyond_loopback(&line);
                return Ok(Some(location));
            }
            Line::Noise => {}
            Line::Wrong(reason) => *wrong = format!("; a line {reason}"),
            Line::NotLocal(host) => {
                return Err(failed(format!(
                    "it listens on `{host}`, which is not this machine; expected a Unix socket or \
                     a loopback address"
                )));
            }
            Line::PathTooLong { path, found_bytes, max_bytes } => {
                let path = path.display();
                return Err(failed(format!(
                    "its socket path `{path}` has {found_bytes} bytes; the system allows \
                     {max_bytes}"
                )));
            }
        }
        pipes::log(observer, &self.tail, &line);
        self.noise.get_or_insert(line);
        Ok(None)
    }

    /// Handles an exit before the location was read. Lines printed before still count: with a
    /// location among them, the start failed at the step `ready`.
    async fn exited_with_lines(
        &mut self,
        status: ExitStatus,
        lines: &mut mpsc::Receiver<String>,
        wrong: &mut String,
        observer: &ObserverRef,
    ) -> NotStarted {
        let mut step = LoadStep::Location;
        let read = async {
            while let Some(line) = lines.recv().await {
                if step == LoadStep::Ready {
                    pipes::log(observer, &self.tail, &line);
                } else if self.read_line(line, wrong, observer)?.is_some() {
                    step = LoadStep::Ready;
                }
            }
            Ok(())
        };
        // Its descendants may hold its stdout open.
        if let Ok(Err(failed)) = timeout(PIPE_DRAIN_TIMEOUT, read).await {
            return failed;
        }
        lines.close();
        for reader in self.readers.drain(..) {
            reader.finish().await;
        }
        self.exited(step, status)
    }

    /// Handles a closed stdout: the process may be about to exit.
    async fn stdout_closed(&mut self, step: LoadStep) -> NotStarted {
        match timeout_at(self.until.into(), self.child.wait()).await {
            Ok(status) => {
                for reader in self.readers.drain(..) {
                    reader.finish().await;
                }
                self.exited(step, status)
            }
            Err(_) => {
                let output = output_suffix(&lock(&self.tail));
                let message = format!("it closed its stdout without printing its location{output}");
                NotStarted::at(step, message)
            }
        }
    }

    fn exited(&self, step: LoadStep, status: ExitStatus) -> NotStarted {
        let not_started =
            NotStarted::at(step, self.program.explain_exit(status, &lock(&self.tail)));
        NotStarted { has_exited_with_success: status.success(), ..not_started }
    }

    /// Polls until the process is ready.
    async fn ready(&mut self, client: &Client) -> Result<(), NotStarted> {
        let step = LoadStep::Ready;
        let http_request = HttpRequest::health();
        let mut last = "no response".to_owned();
        let mut poll_delay = Duration::ZERO;
        loop {
            // The delay is part of it: an immediate failure must not starve the branches that
            // observe the exit and the timeout.
            let poll = async {
                if !poll_delay.is_zero() {
                    tokio::time::sleep(poll_delay).await;
                }
                client.send::<Async>(&http_request).await
            };
            tokio::select! {
                // In this order: if no process listens, the request has failed at once.
                biased;
                status = self.child.wait() => {
                    for reader in self.readers.drain(..) {
                        reader.finish().await;
                    }
                    return Err(self.exited(step, status));
                }
                () = tokio::time::sleep_until(self.until.into()) => {
                    let waited = self.program.limits.start_timeout.as_millis();
                    let output = output_suffix(&lock(&self.tail));
                    let message = format!("it was not ready within {waited} ms: {last}{output}");
                    return Err(NotStarted::at(step, message));
                }
                polled = poll => match polled {
                    Ok(response) if response.status == StatusCode::OK => return Ok(()),
                    Ok(response) => {
                        let text = String::from_utf8_lossy(&response.body);
                        let text: String = text.trim().chars().take(200).collect();
                        last = format!("`/healthz` returned {}: {text}", response.status);
                    }
                    Err(error) => last = error.message,
                },
            }
            poll_delay = (poll_delay * 2).clamp(INITIAL_POLL_INTERVAL, MAX_POLL_INTERVAL);
        }
    }
}
