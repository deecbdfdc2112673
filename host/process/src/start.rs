//! Starts a program until it can be called: launch → location → ready, within one timeout. A failed
//! start leaves nothing behind.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hotbay_protocol::location::UNIX_PREFIX;
use hotbay_protocol::variable;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{timeout, timeout_at};

use crate::capabilities::Capabilities;
use crate::child::{Child, Stopped};
use crate::client::Client;
use crate::config;
use crate::connection::Async;
#[cfg(target_os = "linux")]
use crate::descendants::tagged_processes;
use crate::diagnose;
use crate::error::{Diagnosis, Error, Step};
use crate::guardian::{self, Guardian};
use crate::http::HttpRequest;
use crate::last_output::output_suffix;
use crate::launch::{LaunchFolder, token};
use crate::location::{Line, Location};
use crate::output::{self, ObserverRef, PIPE_DRAIN_TIMEOUT, Reader, SharedTail};
use crate::peer::{self, Peer};
use crate::program::Program;
use crate::services::{self, HostSocket};
use crate::state::Live;
use crate::sync::{after, lock};
use crate::usage::Meter;

/// Delay between two readiness polls; doubled each time.
const INITIAL_POLL_INTERVAL: Duration = Duration::from_millis(1);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A process that can be called, and its resources. Nothing restarts it.
pub struct Started {
    pub(crate) child: Child,
    pub(crate) live: Arc<Live>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) tail: SharedTail,
    pub(crate) services: Option<HostSocket>,
    /// The first line that it printed before its location.
    pub(crate) noise: Option<String>,
    /// The printed address, if it covers all network interfaces of the machine.
    pub(crate) printed_beyond_loopback: Option<SocketAddr>,
    /// Dropped last: it contains the sockets.
    pub(crate) folder: LaunchFolder,
}

impl Started {
    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.live.pid
    }

    /// Returns the client of the process.
    pub fn client(&self) -> &Client {
        &self.live.client
    }

    /// Returns the private folder for its sockets.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the first line that it printed before its location.
    pub fn noise(&self) -> Option<&str> {
        self.noise.as_deref()
    }

    /// Returns the exit status, if the process has exited.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait()
    }

    /// Waits until the process exits; its descendants may live on. Cancel safe.
    pub async fn wait(&mut self) -> ExitStatus {
        self.child.wait().await
    }

    /// Sends SIGTERM to the process and its whole group.
    pub fn terminate(&self) {
        self.child.terminate();
    }

    /// Reads the remaining output of a process that has exited.
    pub async fn finish_output(&mut self) {
        for reader in self.readers.drain(..) {
            reader.finish().await;
        }
    }

    /// Explains how it exited, and why; `program` is the file that was executed.
    pub fn explain_exit(&self, status: ExitStatus, program: &Path) -> Diagnosis {
        let name = format!("`{}`", program.display());
        diagnose::of_exit(status, program, &name, &lock(&self.tail))
    }

    /// Returns a function that counts the descendants that still run. It blocks. Linux only.
    #[cfg(target_os = "linux")]
    pub fn count_descendants(&self) -> impl FnOnce() -> usize + Send + 'static {
        let tag = self.child.tag().to_owned();
        move || tagged_processes::all(&tag).len()
    }

    /// Stops the process and all its descendants, with a grace period, and removes its sockets.
    pub async fn stop(self, grace: Duration) -> Stopped {
        let Self { child, readers, services, folder, .. } = self;
        let stopped = child.stop(grace).await;
        drop((readers, services, folder));
        stopped
    }
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// The resources of a launch that do not depend on what the program is capable of. A host creates
/// them while it queries the capabilities.
pub struct Prepared {
    /// Dropped first: it removes the folder if the host exits.
    guardian: Option<Guardian>,
    tag: String,
    token: String,
    services: HostSocket,
    folder: LaunchFolder,
}

/// Creates a private folder with the socket of the host's services, and starts a guardian, on a
/// thread of the host's runtime.
///
/// # Errors
///
/// `StartFailed` at the step `launch`.
pub async fn prepare(program: Arc<Program>, observer: ObserverRef) -> Result<Prepared, Error> {
    Prepared::new(&program, &observer)
}

impl Prepared {
    fn new(program: &Program, observer: &ObserverRef) -> Result<Self, Error> {
        let failed = |message: String| Error::at(Step::Launch, message);
        let folder = std::path::absolute(std::env::temp_dir())
            .and_then(|parent| LaunchFolder::make(&parent, program.own_folder))
            .map_err(|error| {
                failed(format!("cannot create a private folder for its sockets: {error}"))
            })?;
        let (tag, token) = token()
            .and_then(|tag| Ok((tag, token()?)))
            .map_err(|error| failed(format!("cannot generate random numbers: {error}")))?;
        let served = services::serve(&host_socket(&folder), &token, Arc::clone(observer));
        let services = served.map_err(|error| {
            failed(format!("cannot create the socket of the host's services: {error}"))
        })?;
        let guardian = Guardian::spawn(Path::new(guardian::SHELL), &tag, Some(folder.path()))
            .map_err(|error| Error::at(Step::Launch, program.explain_spawn_error(&error)))?;
        Ok(Self { guardian, tag, token, services, folder })
    }
}

impl fmt::Debug for Prepared {
    /// Omits the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

fn host_socket(folder: &LaunchFolder) -> PathBuf {
    folder.path().join("host.socket")
}

/// Starts a program and waits until it can be called, on a thread of the host's runtime.
///
/// # Errors
///
/// `StartFailed`, with the step that failed.
pub async fn start(
    program: &Program,
    capabilities: &Capabilities,
    observer: &ObserverRef,
) -> Result<Started, Error> {
    let until = after(Instant::now(), program.limits.start_timeout);
    program.ensure_intact().await.map_err(|reason| Error::at(Step::Stage, reason))?;
    let prepared = Prepared::new(program, observer)?;
    let (spawned, _) = oneshot::channel();
    start_prepared(program, capabilities, observer, prepared, spawned, until).await
}

/// Starts a program like [`start`], for the first time. `spawned` is notified once its process runs.
pub(crate) async fn start_first(
    program: &Program,
    capabilities: &Capabilities,
    observer: &ObserverRef,
    prepared: Result<Prepared, Error>,
    spawned: oneshot::Sender<()>,
) -> Result<Started, Error> {
    let until = after(Instant::now(), program.limits.start_timeout);
    program.ensure_intact().await.map_err(|reason| Error::at(Step::Stage, reason))?;
    start_prepared(program, capabilities, observer, prepared?, spawned, until).await
}

async fn start_prepared(
    program: &Program,
    capabilities: &Capabilities,
    observer: &ObserverRef,
    prepared: Prepared,
    spawned: oneshot::Sender<()>,
    until: Instant,
) -> Result<Started, Error> {
    let Prepared { guardian, tag, token, services, folder } = prepared;
    let failed = |message: String| Error::at(Step::Launch, message);
    let header = HeaderValue::try_from(&token).map_err(|error| failed(error.to_string()))?;
    let is_ours = capabilities.is_ours();
    let launch = program.launch(Vec::new(), tag, Some(folder.path()));
    let mut launch = launch.map_err(|reason| Error::at(Step::Launch, reason))?;
    let mut services = Some(services);
    let socket = host_socket(&folder);
    if is_ours {
        let mut add = |name: &str, value: OsString| launch.environment.push((name.into(), value));
        add(variable::SOCKET_DIR, folder.path().into());
        add(variable::TOKEN, token.into());
        add(variable::HOST, format!("{UNIX_PREFIX}{}", socket.display()).into());
    } else {
        services = None;
        // On failure it is removed with its folder.
        let _ = std::fs::remove_file(socket);
        // Their SDK creates its socket there.
        launch.environment.retain(|(name, _)| name != "TMPDIR");
        launch.environment.push(("TMPDIR".into(), folder.path().into()));
    }
    let start_config = config::start_config(program, capabilities);
    let config_file = config::give(&mut launch, start_config, capabilities, folder.path())
        .map_err(|reason| Error::at(Step::Config, reason))?;
    let mut child = Child::spawn_with_retries(&launch, guardian)
        .await
        .map_err(|error| Error::at(Step::Launch, program.explain_spawn_error(&error)))?;
    // The host may not wait for it.
    let _ = spawned.send(());
    let tail = SharedTail::default();
    let (location_sender, mut lines) = mpsc::channel(16);
    let mut readers = Vec::new();
    if let Some(stdout) = child.take_stdout() {
        let (observer, tail) = (Arc::clone(observer), Arc::clone(&tail));
        readers.push(output::read(stdout, observer, tail, Some(location_sender)));
    }
    if let Some(stderr) = child.take_stderr() {
        readers.push(output::read(stderr, Arc::clone(observer), Arc::clone(&tail), None));
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
        Ok(location) => match starting.check_location(&location).await {
            Ok(peer) => {
                let client = Client::of_peer(location, peer, Some(header));
                starting.ready(&client).await.map(|()| client)
            }
            Err(failed) => Err(failed),
        },
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
                meter: Meter::new(&child),
                end: OnceLock::new(),
                exit_reason: watch::Sender::new(None),
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
    ) -> Result<Location, Error> {
        let step = Step::Location;
        let mut wrong = String::new();
        loop {
            tokio::select! {
                // In this order: lines may come forever, and the last ones before an exit count.
                biased;
                () = tokio::time::sleep_until(self.until.into()) => {
                    let tail = lock(&self.tail);
                    let message = format!(
                        "it did not print its location within {} ms; expected a line such as \
                         `http+unix:///path/to.socket`, flushed{wrong}{}",
                        self.program.limits.start_timeout.as_millis(),
                        output_suffix(&tail)
                    );
                    return Err(Error::at(step, self.program.explain_slow_start(message, &tail)));
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

    /// Returns whose socket the location must be. Fails if a confined program does not listen there
    /// itself.
    async fn check_location(&mut self, location: &Location) -> Result<Peer, Error> {
        let refused = |reason: &dyn fmt::Display| {
            Error::at(Step::Location, format!("it must not be called at `{location}`: {reason}"))
        };
        let peer = Peer::of(&self.child, self.program.sandbox.is_some());
        let peer = peer.map_err(|error| refused(&error))?;
        match (location, &peer) {
            (_, Peer::Anyone) => Ok(peer),
            (Location::Unix(path), _) => match UnixStream::connect(path).await {
                Ok(socket) => {
                    peer.check(&socket).map_err(|error| refused(&error))?;
                    Ok(peer)
                }
                // It may not listen yet; each later connection is checked, too.
                Err(_) => Ok(peer),
            },
            (Location::Tcp(address), _) => {
                let mut poll_delay = INITIAL_POLL_INTERVAL;
                loop {
                    let (checked, address) = (peer.clone(), *address);
                    let check = tokio::task::spawn_blocking(move || checked.is_own_port(address));
                    match check.await.unwrap_or(Ok(false)) {
                        Ok(true) => return Ok(peer),
                        Err(error) => return Err(refused(&error)),
                        Ok(false) if Instant::now() >= self.until => {
                            return Err(refused(&peer::NOT_LISTENING));
                        }
                        // The next step reports an exit.
                        Ok(false) if timeout(poll_delay, self.child.wait()).await.is_ok() => {
                            return Ok(peer);
                        }
                        Ok(false) => poll_delay = (poll_delay * 2).min(MAX_POLL_INTERVAL),
                    }
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
    ) -> Result<Option<Location>, Error> {
        let failed = |message: String| Error::at(Step::Location, message);
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
        output::log(observer, &self.tail, &line);
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
    ) -> Error {
        let mut step = Step::Location;
        let read = async {
            while let Some(line) = lines.recv().await {
                if step == Step::Ready {
                    output::log(observer, &self.tail, &line);
                } else if self.read_line(line, wrong, observer)?.is_some() {
                    step = Step::Ready;
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
    async fn stdout_closed(&mut self, step: Step) -> Error {
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
                Error::at(step, message)
            }
        }
    }

    fn exited(&self, step: Step, status: ExitStatus) -> Error {
        let reason = self.program.explain_failed_start(status, &lock(&self.tail));
        Error::at(step, reason).exited_with_success(status.success())
    }

    /// Polls until the process is ready.
    async fn ready(&mut self, client: &Client) -> Result<(), Error> {
        let step = Step::Ready;
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
                    let tail = lock(&self.tail);
                    let output = output_suffix(&tail);
                    let message = format!("it was not ready within {waited} ms: {last}{output}");
                    return Err(Error::at(step, self.program.explain_slow_start(message, &tail)));
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
