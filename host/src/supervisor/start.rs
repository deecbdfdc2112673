//! From a program to a process that can be called: launch → location → ready, each within the
//! time that a start has. What fails leaves nothing behind.

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

/// Between two looks whether a process is ready; each is twice as long as the one before.
const LOOK_EVERY_FIRST: Duration = Duration::from_millis(1);
const LOOK_EVERY_MAX: Duration = Duration::from_millis(100);

/// Why a process did not start.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) step: LoadStep,
    pub(crate) message: String,
    /// It exited with 0, as it does when it is idle.
    pub(super) has_exited_well: bool,
}

impl NotStarted {
    pub(crate) fn at(step: LoadStep, message: impl fmt::Display) -> Self {
        Self { step, message: message.to_string(), has_exited_well: false }
    }
}

/// A process that can be called, and all that belongs to it.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) live: Arc<Live>,
    pub(super) readers: Vec<Reader>,
    pub(super) tail: SharedTail,
    pub(super) services: Option<HostSocket>,
    /// What it printed before the line that tells where it can be reached: its first line of that.
    pub(super) noise: Option<String>,
    /// The address that it printed, if it is one of every network of the machine.
    pub(super) printed_beyond_loopback: Option<SocketAddr>,
    /// Dropped last: the sockets lie in it.
    pub(super) folder: LaunchFolder,
}

/// A launch of a program, not guarded yet.
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

/// What it wrote, in lines of its own after a message.
pub(super) fn said(tail: &Tail) -> String {
    let words = diagnose::output_of(tail);
    words.map_or_else(String::new, |words| format!("\n{words}"))
}

/// Starts a program and waits until it can be called.
pub(super) async fn start(
    program: &Program,
    capabilities: &Capabilities,
    overseer: &ObserverRef,
) -> Result<Started, NotStarted> {
    let until = Instant::now() + program.limits.start_timeout;
    let failed = |message: String| NotStarted::at(LoadStep::Launch, message);
    program.make_sure().await.map_err(|message| NotStarted::at(LoadStep::Stage, message))?;
    let folder = std::path::absolute(std::env::temp_dir())
        .and_then(|parent| LaunchFolder::make(&parent))
        .map_err(|error| failed(format!("no private folder for its sockets: {error}")))?;
    let (tag, token) = token()
        .and_then(|tag| Ok((tag, token()?)))
        .map_err(|error| failed(format!("no random numbers: {error}")))?;
    let header = HeaderValue::try_from(&token).map_err(|error| failed(error.to_string()))?;
    let is_ours = matches!(capabilities.dialect, Dialect::Ours { .. });
    let mut launch = launch(program, Vec::new(), tag);
    launch.guarded = true;
    launch.remove_at_end = Some(folder.path().to_owned());
    let mut services = None;
    if is_ours {
        let socket = folder.path().join("host.socket");
        let served = services::serve(&socket, &token, Arc::clone(overseer));
        services = Some(
            served
                .map_err(|error| failed(format!("no socket for the host's services: {error}")))?,
        );
        let mut add = |name: &str, value: OsString| launch.environment.push((name.into(), value));
        add("HOTBAY_SOCKET_DIR", folder.path().into());
        add("HOTBAY_TOKEN", token.into());
        add("HOTBAY_HOST", format!("http+unix://{}", socket.display()).into());
    } else {
        // Where their SDK puts its socket.
        launch.environment.retain(|(name, _)| name != "TMPDIR");
        launch.environment.push(("TMPDIR".into(), folder.path().into()));
    }
    let config = config(program, capabilities);
    let config_file = config_delivery::give(&mut launch, config, capabilities, folder.path())
        .map_err(|message| NotStarted::at(LoadStep::Config, message))?;
    let mut child = Child::spawn_with_retries(&launch, Child::spawn)
        .await
        .map_err(|error| failed(program.why_not_spawned(&error)))?;
    let tail = SharedTail::default();
    let (listener, mut lines) = mpsc::channel(16);
    let mut readers = Vec::new();
    if let Some(stdout) = child.take_stdout() {
        let (overseer, tail) = (Arc::clone(overseer), Arc::clone(&tail));
        readers.push(pipes::read(stdout, overseer, tail, Some(listener)));
    }
    if let Some(stderr) = child.take_stderr() {
        readers.push(pipes::read(stderr, Arc::clone(overseer), Arc::clone(&tail), None));
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
    let told = starting.location(&mut lines, overseer).await;
    drop(lines);
    let reached = match told {
        Ok(location) => {
            let client = Client::new(location, Some(header));
            starting.ready(&client).await.map(|()| client)
        }
        Err(failed) => Err(failed),
    };
    let Starting { child, readers, tail, noise, printed_beyond_loopback, .. } = starting;
    match reached {
        Ok(client) => {
            lock(&tail).forget_first();
            if let Some(read) = config_file {
                // What is left of it goes with its folder.
                let _ = std::fs::remove_file(read);
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

/// The socket of a program that lies at a place of its own, whatever the host named.
fn fixed_socket(client: &Client, folder: &LaunchFolder, is_ours: bool) -> Option<PathBuf> {
    match client.location() {
        Location::Unix(path) if !is_ours && !path.starts_with(folder.path()) => Some(path.clone()),
        _ => None,
    }
}

/// The configuration as the protocol has it.
pub(super) fn config(program: &Program, capabilities: &Capabilities) -> String {
    let is_ours = matches!(capabilities.dialect, Dialect::Ours { .. });
    // In the older dialects zero is not never, and an exit of theirs may meet a call: the host
    // ends them itself.
    let idle_ns = match is_ours {
        true => u64::try_from(program.limits.idle_max.as_nanos()).unwrap_or(u64::MAX),
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
        // Readers of the older dialects have signed numbers.
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
    /// What it says of where it can be reached. Whatever else it says is log.
    async fn location(
        &mut self,
        lines: &mut mpsc::Receiver<String>,
        overseer: &ObserverRef,
    ) -> Result<Location, NotStarted> {
        let step = LoadStep::Location;
        let mut wrong = String::new();
        loop {
            tokio::select! {
                // In this order: lines may come for ever, and the last ones before an end count.
                biased;
                () = tokio::time::sleep_until(self.until.into()) => {
                    let message = format!(
                        "it did not print where it can be reached within {} ms; expected a line \
                         such as `http+unix:///path/to.socket`, flushed{wrong}{}",
                        self.program.limits.start_timeout.as_millis(),
                        said(&lock(&self.tail))
                    );
                    return Err(NotStarted::at(step, message));
                }
                line = lines.recv() => {
                    let Some(line) = line else { return Err(self.silent(step).await) };
                    if let Some(location) = self.read_line(line, &mut wrong, overseer)? {
                        return Ok(location);
                    }
                }
                status = self.child.wait() => {
                    return Err(self.exited_with_lines(status, lines, &mut wrong, overseer).await);
                }
            }
        }
    }

    /// The location that `line` is; none if it is log, and then it is logged.
    fn read_line(
        &mut self,
        line: String,
        wrong: &mut String,
        overseer: &ObserverRef,
    ) -> Result<Option<Location>, NotStarted> {
        let failed = |message: String| NotStarted::at(LoadStep::Location, message);
        match Location::parse(&line) {
            Line::Location(location) => {
                self.printed_beyond_loopback = Location::beyond_loopback(&line);
                return Ok(Some(location));
            }
            Line::Noise => {}
            Line::Wrong(why) => *wrong = format!("; a line {why}"),
            Line::NotLocal(host) => {
                return Err(failed(format!(
                    "it listens at `{host}`, which is not this machine; expected a Unix socket or a \
                     loopback address"
                )));
            }
            Line::PathTooLong { path, found_bytes, bytes_max } => {
                let path = path.display();
                return Err(failed(format!(
                    "its socket `{path}` has a path of {found_bytes} bytes; the system takes \
                     {bytes_max}"
                )));
            }
        }
        pipes::tell(overseer, &self.tail, &line);
        self.noise.get_or_insert(line);
        Ok(None)
    }

    /// It exited before its location was read. What it had printed counts, whichever was seen
    /// first: with a location, it failed at the step `ready`.
    async fn exited_with_lines(
        &mut self,
        status: ExitStatus,
        lines: &mut mpsc::Receiver<String>,
        wrong: &mut String,
        overseer: &ObserverRef,
    ) -> NotStarted {
        let mut step = LoadStep::Location;
        let read = async {
            while let Some(line) = lines.recv().await {
                if step == LoadStep::Ready {
                    pipes::tell(overseer, &self.tail, &line);
                } else if self.read_line(line, wrong, overseer)?.is_some() {
                    step = LoadStep::Ready;
                }
            }
            Ok(())
        };
        // Processes that it started may hold its stdout open.
        if let Ok(Err(failed)) = timeout(PIPE_DRAIN_TIMEOUT, read).await {
            return failed;
        }
        lines.close();
        for reader in self.readers.drain(..) {
            reader.end().await;
        }
        self.exited(step, status)
    }

    /// It closed its stdout and may be about to end.
    async fn silent(&mut self, step: LoadStep) -> NotStarted {
        match timeout_at(self.until.into(), self.child.wait()).await {
            Ok(status) => {
                for reader in self.readers.drain(..) {
                    reader.end().await;
                }
                self.exited(step, status)
            }
            Err(_) => {
                let said = said(&lock(&self.tail));
                let message =
                    format!("it closed its stdout before it said where it can be reached{said}");
                NotStarted::at(step, message)
            }
        }
    }

    fn exited(&self, step: LoadStep, status: ExitStatus) -> NotStarted {
        let not_started = NotStarted::at(step, self.program.why_exited(status, &lock(&self.tail)));
        NotStarted { has_exited_well: status.success(), ..not_started }
    }

    /// Asks until it says that it can be called.
    async fn ready(&mut self, client: &Client) -> Result<(), NotStarted> {
        let step = LoadStep::Ready;
        let ask = HttpRequest::health();
        let mut last = "it did not answer".to_owned();
        let mut look_in = Duration::ZERO;
        loop {
            // The pause is part of it: what is refused at once must not hide the end of the child
            // or of the time.
            let look = async {
                if !look_in.is_zero() {
                    tokio::time::sleep(look_in).await;
                }
                client.send::<Async>(&ask).await
            };
            tokio::select! {
                // In this order: where nobody listens, the question has failed at once.
                biased;
                status = self.child.wait() => {
                    for reader in self.readers.drain(..) {
                        reader.end().await;
                    }
                    return Err(self.exited(step, status));
                }
                () = tokio::time::sleep_until(self.until.into()) => {
                    let waited = self.program.limits.start_timeout.as_millis();
                    let said = said(&lock(&self.tail));
                    let message = format!("it was not ready within {waited} ms: {last}{said}");
                    return Err(NotStarted::at(step, message));
                }
                asked = look => match asked {
                    Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
                    Ok(answer) => {
                        let text = String::from_utf8_lossy(&answer.body);
                        let text: String = text.trim().chars().take(200).collect();
                        last = format!("`/healthz` answered {}: {text}", answer.status);
                    }
                    Err(broken) => last = broken.message,
                },
            }
            look_in = (look_in * 2).clamp(LOOK_EVERY_FIRST, LOOK_EVERY_MAX);
        }
    }
}
