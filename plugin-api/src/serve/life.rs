//! The lifecycle of a program: listen, start the plugin, serve, shut down.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::Map;

use super::bell::Bell;
use super::door::Door;
use super::instance::Instance;
use super::line::{CONNECTIONS_MAX, Lines, Ticket};
use super::presence::{Idle, Leave, Presence};
use super::program::{Endpoint, Program};
use super::settings::Settings;
use super::token::Token;
use super::{answers, connection, routes, stderr, way_back};
use crate::export::panics::{self, Raised};
use crate::{HostServices, Plugin};

/// Time that running requests have to finish when the program stops.
const FINISH_WAIT_MAX: Duration = Duration::from_secs(5);

/// Pause before the next attempt to accept, when the system lacks descriptors or memory.
const NO_ROOM_WAIT: Duration = Duration::from_millis(50);

/// State shared by all connections.
#[derive(Debug)]
pub(super) struct Server<T> {
    pub(super) instance: Instance<T>,
    pub(super) endpoints: Vec<(&'static str, Endpoint<T>)>,
    pub(super) token: Option<Token>,
    pub(super) presence: Presence,
    pub(super) bell: Arc<Bell>,
}

/// Serves the plugin with the given start configuration; returns when the program has to exit.
pub(super) fn run<T: Plugin>(program: Program<T>, settings: &str) -> ExitCode {
    let read = Settings::read(settings, program.name)
        .and_then(|settings| Ok((settings, Token::of(env::var_os("HOTBAY_TOKEN").as_deref())?)))
        .and_then(|(settings, token)| {
            let host = env::var("HOTBAY_HOST").ok();
            let token_text = token.as_ref().map(Token::as_str);
            Ok((settings, way_back::services(host.as_deref(), token_text)?, token))
        });
    let (settings, services, token) = match read {
        Ok(read) => read,
        Err(mistake) => {
            stderr::plain(&mistake);
            return ExitCode::from(2);
        }
    };
    match start_and_serve(program, settings, services, token) {
        Ok(code) => code,
        Err(mistake) => {
            stderr::error(&mistake, Map::new());
            ExitCode::FAILURE
        }
    }
}

fn start_and_serve<T: Plugin>(
    program: Program<T>,
    settings: Settings,
    services: HostServices,
    token: Option<Token>,
) -> Result<ExitCode, String> {
    let bell = Bell::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let bell = Arc::new(bell);
    let folder = env::var_os("HOTBAY_SOCKET_DIR");
    let door = Door::open(&settings, folder.as_deref())?;
    let idle_after = settings.idle_after;
    let plugin = match start::<T>(settings, services, &bell) {
        Start::Started(plugin) => plugin,
        Start::Failed(step, raised) => {
            let message = match &raised {
                Raised::Error(error) => format!("`{step}` failed: {error}"),
                Raised::Panic(panic) => format!("`{step}` {panic}"),
            };
            stderr::error(&message, answers::value_of(&raised));
            return Ok(ExitCode::FAILURE);
        }
        Start::Interrupted => return Err("stopped by a signal while the plugin started".to_owned()),
    };
    let instance = Instance::new(plugin);
    let presence = Presence::new(Instant::now());
    let Program { endpoints, .. } = program;
    let server = Arc::new(Server { instance, endpoints, token, presence, bell });
    let location = door.location().map_err(|error| error.to_string())?;
    // If the host has exited meanwhile, its guardian or a signal stops this process.
    let _ = stderr::print(&location);
    let lines = Lines::new(Arc::clone(&server.bell));
    let mut front = Front { server: &server, door, lines, accepted: 0 };
    front.serve(idle_after);
    let Front { door, lines, .. } = front;
    let finished = finish(&server, &lines);
    let code = end(server, finished);
    drop(door);
    Ok(code)
}

enum Start<T> {
    Started(T),
    Failed(&'static str, Raised),
    /// A stop was requested before the plugin had started.
    Interrupted,
}

/// Starts the plugin on a separate thread, so that a signal ends a start that hangs.
fn start<T: Plugin>(settings: Settings, services: HostServices, bell: &Arc<Bell>) -> Start<T> {
    panics::prepare_program(&services, way_back::thread_panicked);
    #[cfg(any(feature = "tracing", feature = "log"))]
    crate::bridge::install();
    let (tell, told) = mpsc::sync_channel(1);
    let rings = Arc::clone(bell);
    let starts = thread::Builder::new().name("hotbay-start".to_owned()).spawn(move || {
        let config = &settings.config;
        let started = match routes::guarded(|| T::validate_config(config)) {
            Err(raised) => Start::Failed("validate_config", raised),
            Ok(()) => match routes::guarded(|| T::init(config, services)) {
                Err(raised) => Start::Failed("init", raised),
                Ok(plugin) => Start::Started(plugin),
            },
        };
        let _ = tell.send(started);
        rings.ring();
    });
    if let Err(error) = starts {
        let error = crate::PluginError::new(500, format!("cannot spawn a thread: {error}"));
        return Start::Failed("init", Raised::Error(error));
    }
    loop {
        if bell.is_stop_asked() {
            return Start::Interrupted;
        }
        if let Ok(started) = told.try_recv() {
            return started;
        }
        wait(&mut [PollFd::new(&**bell, PollFlags::IN)], None);
        bell.hush();
    }
}

/// Accepts connections and spawns a thread for each.
struct Front<'a, T> {
    server: &'a Arc<Server<T>>,
    door: Door,
    lines: Arc<Lines>,
    accepted: u64,
}

/// Why the acceptor stopped accepting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// No connection is pending.
    All,
    /// The limit of connections is reached; the end of one wakes the main thread.
    Full,
    /// The system lacks descriptors or memory.
    NoRoom,
}

impl<T: Plugin> Front<'_, T> {
    /// Serves until a stop is requested, or no call has run for the idle timeout.
    fn serve(&mut self, idle_after: Option<Duration>) {
        let presence = &self.server.presence;
        let bell = &self.server.bell;
        let mut accepted = Accepted::All;
        loop {
            if bell.is_stop_asked() {
                presence.leave();
                break;
            }
            let idle = idle_after.map(|after| (after, presence.idle(after, Instant::now())));
            let left = match idle {
                Some((after, Idle::LongEnough)) => match presence.leave_if_nobody_calls() {
                    Leave::Closing => break,
                    Leave::SomebodyCalls => Some(after),
                },
                Some((_, Idle::Wait(left))) => Some(left),
                None => None,
            };
            let mut fds =
                [PollFd::new(&**bell, PollFlags::IN), PollFd::new(&self.door, PollFlags::IN)];
            match accepted {
                Accepted::All => wait(&mut fds, left),
                Accepted::Full => wait(&mut fds[..1], left),
                Accepted::NoRoom => wait(&mut fds[..1], Some(NO_ROOM_WAIT)),
            }
            bell.hush();
            accepted = self.accept();
        }
        self.door.shut();
        self.accept();
        self.lines.cut_idle();
    }

    fn accept(&mut self) -> Accepted {
        while self.lines.count() < CONNECTIONS_MAX {
            let stream = match self.door.accept() {
                Ok(stream) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Accepted::All,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    _ => return Accepted::NoRoom,
                },
            };
            self.accepted += 1;
            let ticket = self.lines.add(self.accepted, stream);
            let served = Served { server: Arc::clone(self.server), ticket };
            let thread = thread::Builder::new().name("hotbay-connection".to_owned());
            if let Err(error) = thread.spawn(move || served.serve()) {
                stderr::warn(&format!("connection closed: cannot spawn a thread: {error}"));
                return Accepted::NoRoom;
            }
        }
        Accepted::Full
    }
}

/// A connection and the thread that serves it.
struct Served<T> {
    // Dropped first: when the guard is gone, this thread holds no reference to the server.
    server: Arc<Server<T>>,
    ticket: Ticket,
}

impl<T: Plugin> Served<T> {
    fn serve(self) {
        connection::serve(&self.server, &self.ticket.line);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    All,
    SomeRun,
}

/// Waits for the connections to end, up to the timeout.
fn finish<T>(server: &Server<T>, lines: &Lines) -> Finished {
    let until = Instant::now() + FINISH_WAIT_MAX;
    while lines.count() > 0 {
        let Some(left) = until.checked_duration_since(Instant::now()) else {
            return Finished::SomeRun;
        };
        wait(&mut [PollFd::new(&*server.bell, PollFlags::IN)], Some(left));
        server.bell.hush();
    }
    Finished::All
}

/// Shuts the plugin down, if no request uses it.
fn end<T: Plugin>(server: Arc<Server<T>>, finished: Finished) -> ExitCode {
    let server = Arc::into_inner(server).filter(|_| finished == Finished::All);
    let Some(plugin) = server.and_then(|server| server.instance.into_inner()) else {
        let limit = FINISH_WAIT_MAX.as_secs();
        stderr::error(
            &format!("shutdown skipped: requests were still running after {limit} s"),
            Map::new(),
        );
        return ExitCode::FAILURE;
    };
    match routes::guarded(|| plugin.shutdown()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(raised) => {
            let message = match &raised {
                Raised::Error(error) => format!("`shutdown` failed: {error}"),
                Raised::Panic(panic) => format!("`shutdown` {panic}"),
            };
            stderr::error(&message, answers::value_of(&raised));
            ExitCode::FAILURE
        }
    }
}

/// Sleeps until a descriptor is ready or the time has passed; may return early.
fn wait(fds: &mut [PollFd<'_>], left: Option<Duration>) {
    let left = left.map(|left| left.min(Duration::from_secs(60 * 60)));
    let left =
        left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }));
    let _ = rustix::event::poll(fds, left.as_ref());
}
