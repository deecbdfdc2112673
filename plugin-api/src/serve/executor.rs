//! Runs connections on a few threads. One thread waits for events and runs the connections that are
//! ready itself, one after another, so a short call wakes no other thread.
//!
//! The main thread ticks while connections run. If one runs at two ticks, its thread is *stuck* in a
//! call, and another thread takes over: a parked one, or a new one. So a call that blocks delays
//! other connections by two ticks at most. While most calls are long, a thread does not wait for
//! that: it wakes another one before it runs a connection, if nothing else would serve the others.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use mio::{Events, Registry, Token};
use slab::Slab;

use super::connections::{ConnectionGuard, MAX_CONNECTIONS};
use super::load::CallLoad;
use super::socket::{Socket, SocketIo};
use super::stop::StopSignal;
use crate::panic::drop_panic;

/// Interval of [`Executor::tick`] while connections run.
const TICK_INTERVAL: Duration = Duration::from_millis(1);

/// Number of ticks without any work after which the main thread stops ticking.
const MAX_QUIET_TICKS: u32 = 20;

/// Time after which a parked thread exits.
const PARK_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of threads: every connection may be in a call, and one more waits for events.
const MAX_THREADS: usize = MAX_CONNECTIONS + 1;

/// Number of connections that run before events are polled again, even if others are ready.
const MAX_RUNS_PER_POLL: u32 = 64;

/// Maximum number of events per poll.
const MAX_EVENTS: usize = 256;

/// The token of the waker, which no connection has.
const WAKE_TOKEN: Token = Token(usize::MAX);

/// The future that serves a connection.
pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The threads and the connections that they run.
#[derive(Debug)]
pub(super) struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    registry: Arc<Registry>,
    /// Wakes the thread that polls.
    waker: mio::Waker,
    /// Wakes the main thread.
    stop_signal: Arc<StopSignal>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

struct State {
    entries: Slab<Entry>,
    /// The queued entries, in the order in which they became ready.
    ready: VecDeque<usize>,
    /// `None` while a thread polls.
    poller: Option<Poller>,
    runs_since_poll: u32,
    threads: Slab<ThreadState>,
    /// The parked threads; the last one is woken first, so that surplus ones exit.
    parked: Vec<(usize, Thread)>,
    /// Number of threads that are neither parked nor stuck.
    active: usize,
    load: CallLoad,
    monitor: Monitor,
    /// Why no thread could be spawned, until the main thread logs it.
    spawn_error: Option<io::Error>,
    /// Whether the last attempt to spawn a thread failed; only the first failure is logged.
    has_spawn_failed: bool,
}

struct Poller {
    poll: mio::Poll,
    events: Events,
}

/// A connection.
struct Entry {
    /// `None` while a thread runs it.
    task: Option<Task>,
    socket: Arc<Socket>,
    status: Status,
}

struct Task {
    // Dropped first: when the guard is gone, this connection holds no reference to the server.
    serving: Serving,
    _guard: Arc<ConnectionGuard>,
    waker: Waker,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Idle,
    Queued,
    Running,
    /// Running, and to be run again.
    Woken,
}

#[derive(Default)]
struct ThreadState {
    /// Number of connections that it has run.
    runs: u64,
    /// Whether it runs one now.
    is_running: bool,
    /// Value of `runs` at the last tick, if it ran a connection then.
    seen_run: Option<u64>,
    /// Whether it is not counted as active, since it is in a long call.
    is_stuck: bool,
    /// Whether it was taken from the parked threads.
    is_released: bool,
}

/// State of the ticks.
struct Monitor {
    is_ticking: bool,
    last_tick: Instant,
    quiet_ticks: u32,
    has_run: bool,
}

/// Queues a connection, from any thread.
struct TaskWaker {
    shared: Weak<Shared>,
    token: usize,
}

impl Executor {
    /// Starts the first thread. `stop_signal` wakes the main thread, which must then call
    /// [`tick`](Self::tick).
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn start(stop_signal: Arc<StopSignal>) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let registry = Arc::new(poll.registry().try_clone()?);
        let waker = mio::Waker::new(&registry, WAKE_TOKEN)?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let state = State {
            entries: Slab::new(),
            ready: VecDeque::new(),
            poller: Some(Poller { poll, events: Events::with_capacity(MAX_EVENTS) }),
            runs_since_poll: 0,
            threads: Slab::new(),
            parked: Vec::new(),
            active: 0,
            load: CallLoad::new(cores, MAX_THREADS),
            monitor: Monitor {
                is_ticking: false,
                last_tick: Instant::now(),
                quiet_ticks: 0,
                has_run: false,
            },
            spawn_error: None,
            has_spawn_failed: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), registry, waker, stop_signal });
        let mut state = shared.lock();
        shared.release_thread(&mut state);
        if let Some(error) = state.spawn_error.take() {
            return Err(error);
        }
        drop(state);
        Ok(Self { shared })
    }

    /// Serves a connection by the future that `serve` returns, until that has ended.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn add(
        &self,
        guard: Arc<ConnectionGuard>,
        serve: impl FnOnce(SocketIo) -> Serving,
    ) -> io::Result<()> {
        let socket = Arc::clone(guard.connection.socket());
        let mut state = self.shared.lock();
        let vacant = state.entries.vacant_entry();
        let token = vacant.key();
        // An event that arrives at once waits for the lock.
        let registry = Arc::clone(&self.shared.registry);
        let io = SocketIo::register(Arc::clone(&socket), registry, Token(token))?;
        let waker = TaskWaker { shared: Arc::downgrade(&self.shared), token };
        let waker = Waker::from(Arc::new(waker));
        let task = Task { serving: serve(io), _guard: guard, waker };
        // It is polled when the first request arrives.
        vacant.insert(Entry { task: Some(task), socket, status: Status::Idle });
        Ok(())
    }

    /// Lets another thread take over for those that are stuck.
    pub(super) fn tick(&self, now: Instant) -> Tick {
        let mut state = self.shared.lock();
        if !state.monitor.is_ticking {
            return Tick { next: None, spawn_error: None };
        }
        let since = now.saturating_duration_since(state.monitor.last_tick);
        if let Some(remaining) = TICK_INTERVAL.checked_sub(since).filter(|left| !left.is_zero()) {
            return Tick { next: Some(remaining), spawn_error: None };
        }
        state.monitor.last_tick = now;
        let is_quiet = state.mark_stuck();
        if state.is_unserved() && state.active == 0 {
            self.shared.release_thread(&mut state);
        }
        // Without a thread, the next tick tries again to spawn one.
        let is_quiet = is_quiet && state.active > 0;
        let monitor = &mut state.monitor;
        monitor.quiet_ticks = if is_quiet { monitor.quiet_ticks + 1 } else { 0 };
        monitor.is_ticking = monitor.quiet_ticks < MAX_QUIET_TICKS;
        let next = monitor.is_ticking.then_some(TICK_INTERVAL);
        Tick { next, spawn_error: state.spawn_error.take() }
    }
}

/// Result of a tick.
#[must_use]
pub(super) struct Tick {
    /// Time until the next tick; `None` if the main thread will be woken.
    pub(super) next: Option<Duration>,
    /// Why a thread could not be spawned.
    pub(super) spawn_error: Option<io::Error>,
}

impl State {
    /// Queues a connection, or makes the thread that runs it run it again.
    fn queue(&mut self, token: usize) {
        let Some(entry) = self.entries.get_mut(token) else { return };
        match entry.status {
            Status::Idle => {
                entry.status = Status::Queued;
                self.ready.push_back(token);
            }
            Status::Running => entry.status = Status::Woken,
            Status::Queued | Status::Woken => {}
        }
    }

    /// Takes the next connection that is ready, unless events must be polled first.
    fn next_ready(&mut self) -> Option<(usize, Task)> {
        if self.runs_since_poll >= MAX_RUNS_PER_POLL && self.poller.is_some() {
            return None;
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(entry) = self.entries.get_mut(token) else { continue };
            if let Some(task) = entry.task.take() {
                entry.status = Status::Running;
                self.runs_since_poll += 1;
                return Some((token, task));
            }
        }
        None
    }

    /// Returns a connection after it has run.
    fn put_back(&mut self, token: usize, task: Task) {
        let entry = &mut self.entries[token];
        entry.task = Some(task);
        let is_woken = entry.status == Status::Woken;
        entry.status = Status::Idle;
        if is_woken {
            self.queue(token);
        }
    }

    /// Queues the connections of the events.
    fn queue_events(&mut self, events: &Events) {
        self.runs_since_poll = 0;
        for event in events {
            let Token(token) = event.token();
            if let Some(entry) = self.entries.get(token) {
                entry.socket.record_event(event.is_read_closed() || event.is_error());
                self.queue(token);
            }
        }
    }

    /// Returns whether connections are ready, or may become ready, without a thread that notices.
    fn is_unserved(&self) -> bool {
        !self.ready.is_empty() || self.poller.is_some()
    }

    /// Returns whether connections are ready while another thread waits for events: it would not
    /// notice those that this thread has put back.
    fn is_ready_unnoticed(&self) -> bool {
        !self.ready.is_empty() && self.poller.is_none()
    }

    /// Returns whether another thread should serve the other connections while this one runs.
    fn needs_other_thread(&self) -> bool {
        self.active < self.load.max_active()
            && self.is_unserved()
            // One connection alone has no other to wait for it.
            && self.entries.len() > 1
    }

    /// Marks threads that run the same connection since the last tick. Returns whether there was
    /// nothing to watch.
    fn mark_stuck(&mut self) -> bool {
        let mut is_quiet = !std::mem::take(&mut self.monitor.has_run);
        let (mut stuck, load) = (0, &mut self.load);
        for (_, thread) in &mut self.threads {
            if !thread.is_running || thread.is_stuck {
                continue;
            }
            is_quiet = false;
            if thread.seen_run.replace(thread.runs) == Some(thread.runs) {
                thread.is_stuck = true;
                load.record_stuck();
                stuck += 1;
            }
        }
        self.active -= stuck;
        is_quiet
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_poller(&self) {
        // A failed write means that it is already woken.
        let _ = self.waker.wake();
    }

    /// Unparks or spawns a thread, and counts it as active.
    fn release_thread(self: &Arc<Self>, state: &mut State) {
        if let Some((id, thread)) = state.parked.pop() {
            state.threads[id].is_released = true;
            state.active += 1;
            thread.unpark();
            return;
        }
        if state.threads.len() >= MAX_THREADS {
            return;
        }
        let id = state.threads.insert(ThreadState::default());
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name("hotbay-calls".to_owned());
        match thread.spawn(move || shared.run_thread(id)) {
            Ok(_) => {
                state.active += 1;
                state.has_spawn_failed = false;
            }
            Err(error) => {
                state.threads.remove(id);
                if !std::mem::replace(&mut state.has_spawn_failed, true) {
                    state.spawn_error = Some(error);
                }
            }
        }
    }

    /// Polls and runs connections.
    fn run_thread(self: Arc<Self>, id: usize) {
        let mut state = self.lock();
        // The time at which the last connection ended, if the next one begins at once.
        let mut ended_at = None;
        loop {
            if let Some((token, task)) = state.next_ready() {
                let started_at = ended_at.unwrap_or_else(Instant::now);
                let now;
                (state, now) = self.run_task(state, id, (token, task), started_at);
                ended_at = Some(now);
                if state.active <= state.load.max_active() || state.is_ready_unnoticed() {
                    continue;
                }
            } else if let Some(mut poller) = state.poller.take() {
                let no_wait = (!state.ready.is_empty()).then_some(Duration::ZERO);
                drop(state);
                // An error, such as a signal, yields no events.
                let is_ok = poller.poll.poll(&mut poller.events, no_wait).is_ok();
                state = self.lock();
                if is_ok {
                    state.queue_events(&poller.events);
                }
                state.poller = Some(poller);
                ended_at = None;
                continue;
            }
            match self.park(state, id) {
                Some(released) => state = released,
                None => return,
            }
            ended_at = None;
        }
    }

    /// Runs a connection until it waits for an event, or has ended.
    fn run_task<'s>(
        self: &'s Arc<Self>,
        mut state: MutexGuard<'s, State>,
        id: usize,
        (token, mut task): (usize, Task),
        started_at: Instant,
    ) -> (MutexGuard<'s, State>, Instant) {
        state.threads[id].runs += 1;
        state.threads[id].is_running = true;
        state.monitor.has_run = true;
        let wakes_monitor = !std::mem::replace(&mut state.monitor.is_ticking, true);
        if wakes_monitor {
            state.monitor.quiet_ticks = 0;
            state.monitor.last_tick = started_at;
        }
        if state.needs_other_thread() {
            self.release_thread(&mut state);
        }
        drop(state);
        if wakes_monitor {
            self.stop_signal.wake();
        }
        let mut context = Context::from_waker(&task.waker);
        let polled = drop_panic(|| task.serving.as_mut().poll(&mut context));
        let now = Instant::now();
        let ended = match polled {
            Some(Poll::Pending) => {
                state = self.lock();
                state.put_back(token, task);
                None
            }
            _ => {
                // The socket is deregistered before its token is used again.
                let _ = drop_panic(move || drop(task));
                state = self.lock();
                Some(state.entries.remove(token))
            }
        };
        state.load.record_run(now.saturating_duration_since(started_at));
        let thread = &mut state.threads[id];
        thread.is_running = false;
        thread.seen_run = None;
        if std::mem::take(&mut thread.is_stuck) {
            state.active += 1;
        }
        drop(ended);
        (state, now)
    }

    /// Parks this thread until it is released. Returns `None` if it has to exit.
    fn park<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        id: usize,
    ) -> Option<MutexGuard<'s, State>> {
        state.active -= 1;
        state.parked.push((id, thread::current()));
        let exit_at = Instant::now() + PARK_TIMEOUT;
        loop {
            if std::mem::take(&mut state.threads[id].is_released) {
                return Some(state);
            }
            let Some(remaining) = exit_at.checked_duration_since(Instant::now()) else {
                state.parked.retain(|(other, _)| *other != id);
                state.threads.remove(id);
                return None;
            };
            drop(state);
            thread::park_timeout(remaining);
            state = self.lock();
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.lock();
        let is_idle =
            state.entries.get(self.token).is_some_and(|entry| entry.status == Status::Idle);
        state.queue(self.token);
        drop(state);
        if is_idle {
            shared.wake_poller();
        }
    }
}
