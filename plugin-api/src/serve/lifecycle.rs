//! The lifecycle of a program: listen, start the plugin, serve, shut down.

use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use hotbay_protocol::{DRAIN_TIMEOUT, variable};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::Map;

use super::call::run_plugin;
use super::connections::{Connections, MAX_CONNECTIONS};
use super::executor::{Executor, Tick};
use super::instance::Instance;
use super::listener::{Listener, StartError};
use super::server::{Functions, Server};
use super::settings::{Settings, Token};
use super::stop::{ActivityTracker, IdleCheck, StopAttempt, StopSignal};
use super::{console, host_client, responses, routes};
use crate::export::panics::{self, Failure};
use crate::{HostServices, Plugin};

/// Pause before the next attempt to accept, when the system lacks descriptors or memory.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves the plugin `name` with the given start configuration; returns when the program has to
/// exit.
pub(super) fn run<T: Plugin>(name: &str, functions: Functions<T>, settings: &str) -> ExitCode {
    let parsed = Settings::parse(settings, name)
        .and_then(|settings| {
            Ok((settings, Token::from_env(env::var_os(variable::TOKEN).as_deref())?))
        })
        .and_then(|(settings, token)| {
            let host = env::var(variable::HOST).ok();
            let token_text = token.as_ref().map(Token::as_str);
            Ok((settings, host_client::services(host.as_deref(), token_text)?, token))
        });
    let (settings, services, token) = match parsed {
        Ok(parsed) => parsed,
        Err(message) => {
            console::write_line(&message);
            return ExitCode::from(2);
        }
    };
    #[cfg(feature = "contracts")]
    super::contract_client::connect();
    match start_and_serve(functions, settings, services, token) {
        Ok(code) => code,
        Err(StartError { message, hint }) => {
            let hint = hint.map(|hint| ("hint".to_owned(), hint.into()));
            console::error(&message, hint.into_iter().collect());
            ExitCode::FAILURE
        }
    }
}

fn start_and_serve<T: Plugin>(
    functions: Functions<T>,
    settings: Settings,
    services: HostServices,
    token: Option<Token>,
) -> Result<ExitCode, StartError> {
    let stop_signal =
        StopSignal::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let stop_signal = Arc::new(stop_signal);
    let folder = env::var_os(variable::SOCKET_DIR);
    let listener = Listener::open(&settings, folder.as_deref())?;
    let executor = Executor::start(Arc::clone(&stop_signal))
        .map_err(|error| format!("cannot serve connections: {error}"))?;
    let idle_timeout = settings.idle_timeout;
    let plugin = match start::<T>(settings, services, &stop_signal) {
        StartOutcome::Started(plugin) => plugin,
        StartOutcome::Failed(step, failure) => {
            let message = match &failure {
                Failure::Error(error) => format!("`{step}` failed: {error}"),
                Failure::Panic(panic) => format!("`{step}` {panic}"),
            };
            console::error(&message, responses::failure_fields(&failure));
            return Ok(ExitCode::FAILURE);
        }
        StartOutcome::Interrupted => {
            return Err("the program was stopped by a signal while the plugin was starting"
                .to_owned()
                .into());
        }
    };
    let instance = Instance::new(plugin);
    let activity = ActivityTracker::new(Instant::now());
    let server = Arc::new(Server { instance, functions, token, activity, stop_signal });
    let location = listener.location().map_err(|error| error.to_string())?;
    // If the host has exited meanwhile, its guardian or a signal stops this process.
    let _ = console::print(&location);
    let connections = Connections::new(Arc::clone(&server.stop_signal));
    let mut acceptor =
        Acceptor { server: &server, listener, connections, executor, accepted: 0, check_at: None };
    acceptor.serve(idle_timeout);
    let outcome = acceptor.drain();
    let Acceptor { listener, .. } = acceptor;
    let code = shut_down(server, outcome);
    drop(listener);
    Ok(code)
}

enum StartOutcome<T> {
    Started(T),
    Failed(&'static str, Failure),
    /// A stop was requested before the plugin had started.
    Interrupted,
}

/// Starts the plugin on a separate thread, so that a signal ends a start that hangs.
fn start<T: Plugin>(
    settings: Settings,
    services: HostServices,
    stop_signal: &Arc<StopSignal>,
) -> StartOutcome<T> {
    panics::prepare_program(&services, host_client::report_thread_panic);
    #[cfg(any(feature = "tracing", feature = "log"))]
    crate::bridge::install();
    let (sender, receiver) = mpsc::sync_channel(1);
    let waker = Arc::clone(stop_signal);
    let spawned = thread::Builder::new().name("hotbay-start".to_owned()).spawn(move || {
        let config = &settings.config;
        let started = match run_plugin(|| T::validate_config(config)) {
            Err(failure) => StartOutcome::Failed("validate_config", failure),
            Ok(()) => match run_plugin(|| T::init(config, services)) {
                Err(failure) => StartOutcome::Failed("init", failure),
                Ok(plugin) => StartOutcome::Started(plugin),
            },
        };
        let _ = sender.send(started);
        waker.wake();
    });
    if let Err(error) = spawned {
        let error = crate::PluginError::new(500, format!("cannot spawn a thread: {error}"));
        return StartOutcome::Failed("init", Failure::Error(error));
    }
    loop {
        if stop_signal.is_stop_requested() {
            return StartOutcome::Interrupted;
        }
        if let Ok(started) = receiver.try_recv() {
            return started;
        }
        wait(&mut [PollFd::new(&**stop_signal, PollFlags::IN)], None);
        stop_signal.drain();
    }
}

/// Accepts connections, and ticks for the threads that serve them.
struct Acceptor<'a, T: 'static> {
    server: &'a Arc<Server<T>>,
    listener: Listener,
    connections: Arc<Connections>,
    executor: Executor,
    accepted: u64,
    /// When to check which connections have sent no token.
    check_at: Option<Instant>,
}

/// The reason the acceptor stopped accepting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AcceptResult {
    /// No connection is pending.
    Drained,
    /// The limit of connections is reached; the end of one wakes the main thread.
    LimitReached,
    /// The system lacks descriptors or memory.
    OutOfResources,
}

impl<T: Plugin> Acceptor<'_, T> {
    /// Serves until a stop is requested, or no call has run for the idle timeout.
    fn serve(&mut self, idle_timeout: Option<Duration>) {
        let activity = &self.server.activity;
        let stop_signal = &self.server.stop_signal;
        let mut accepted = AcceptResult::Drained;
        loop {
            if stop_signal.is_stop_requested() {
                activity.stop();
                break;
            }
            let now = Instant::now();
            let idle = idle_timeout.map(|after| (after, activity.check_idle(after, now)));
            let idle = match idle {
                Some((after, IdleCheck::Expired)) => match activity.stop_if_idle() {
                    StopAttempt::Stopping => break,
                    StopAttempt::CallsRunning => Some(after),
                },
                Some((_, IdleCheck::Wait(remaining))) => Some(remaining),
                None => None,
            };
            let tick = tick(&self.executor);
            let remaining = [idle, tick, self.check_tokens(now)].into_iter().flatten().min();
            let mut fds = [
                PollFd::new(&**stop_signal, PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            match accepted {
                AcceptResult::Drained => wait(&mut fds, remaining),
                AcceptResult::LimitReached => wait(&mut fds[..1], remaining),
                AcceptResult::OutOfResources => {
                    let retry = remaining
                        .map_or(ACCEPT_RETRY_DELAY, |remaining| remaining.min(ACCEPT_RETRY_DELAY));
                    wait(&mut fds[..1], Some(retry));
                }
            }
            stop_signal.drain();
            accepted = self.accept();
        }
        self.listener.close();
        self.accept();
        self.connections.close_idle();
    }

    fn accept(&mut self) -> AcceptResult {
        while self.connections.count() < MAX_CONNECTIONS {
            let socket = match self.listener.accept() {
                Ok(socket) => socket,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return AcceptResult::Drained,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    _ => return AcceptResult::OutOfResources,
                },
            };
            self.accepted += 1;
            let now = Instant::now();
            let guard = self.connections.add(self.accepted, socket, now);
            if self.server.token.is_some() {
                self.check_at.get_or_insert(now);
            }
            let (server, guard) = (Arc::clone(self.server), Arc::new(guard));
            let served = Arc::clone(&guard);
            let added = self.executor.add(guard, |io| routes::serve(server, served, io));
            if let Err(error) = added {
                console::warn(&format!("connection closed: cannot wait for its events: {error}"));
                return AcceptResult::OutOfResources;
            }
        }
        AcceptResult::LimitReached
    }

    /// Closes connections that have sent no token in time. Returns the time until the next check.
    fn check_tokens(&mut self, now: Instant) -> Option<Duration> {
        if self.check_at? <= now {
            self.check_at = self.connections.close_unauthenticated(now);
        }
        Some(self.check_at?.saturating_duration_since(now))
    }

    /// Waits for the connections to end, up to the timeout.
    fn drain(&self) -> DrainOutcome {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let stop_signal = &self.server.stop_signal;
        while self.connections.count() > 0 {
            let Some(remaining) = deadline.checked_duration_since(Instant::now()) else {
                return DrainOutcome::TimedOut;
            };
            let remaining = tick(&self.executor).map_or(remaining, |tick| tick.min(remaining));
            wait(&mut [PollFd::new(&**stop_signal, PollFlags::IN)], Some(remaining));
            stop_signal.drain();
        }
        DrainOutcome::Completed
    }
}

/// Lets other threads take over for those in long calls. Returns the time until the next tick.
fn tick(executor: &Executor) -> Option<Duration> {
    let Tick { next, spawn_error } = executor.tick(Instant::now());
    if let Some(error) = spawn_error {
        console::warn(&format!("requests wait for running calls: cannot spawn a thread: {error}"));
    }
    next
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DrainOutcome {
    Completed,
    TimedOut,
}

/// Shuts the plugin down, if no request uses it.
fn shut_down<T: Plugin>(server: Arc<Server<T>>, outcome: DrainOutcome) -> ExitCode {
    let server = Arc::into_inner(server).filter(|_| outcome == DrainOutcome::Completed);
    let Some(plugin) = server.and_then(|server| server.instance.into_inner()) else {
        let limit = DRAIN_TIMEOUT.as_secs();
        console::error(
            &format!("shutdown skipped: requests were still running after {limit} s"),
            Map::new(),
        );
        return ExitCode::FAILURE;
    };
    match run_plugin(|| plugin.shutdown()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let message = match &failure {
                Failure::Error(error) => format!("`shutdown` failed: {error}"),
                Failure::Panic(panic) => format!("`shutdown` {panic}"),
            };
            console::error(&message, responses::failure_fields(&failure));
            ExitCode::FAILURE
        }
    }
}

/// Sleeps until a descriptor is ready or the time has passed; may return early.
fn wait(fds: &mut [PollFd<'_>], remaining: Option<Duration>) {
    let remaining = remaining.map(|remaining| remaining.min(Duration::from_secs(60 * 60)));
    let remaining = remaining.map(|remaining| {
        Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
    });
    let _ = rustix::event::poll(fds, remaining.as_ref());
}
