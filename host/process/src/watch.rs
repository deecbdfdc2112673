//! The watch task of one process: cleans up after an exit, restarts the process after the delay of
//! the restart policy, stops it on command, and checks whether it hangs.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::capabilities::Capabilities;
use crate::child::Stopped;
use crate::connection::{Async, Transport as _};
use crate::error::{Diagnosis, Error, Step};
use crate::http::{Delivery, HttpRequest};
use crate::last_output::output_suffix;
use crate::location::{beyond_loopback, remove_left};
use crate::output::{ObserverRef, SharedTail, Tail};
use crate::process::Process;
use crate::program::Program;
use crate::restart::{Decision, ExitCause, History, MAX_BACKOFF};
use crate::sampled_limits::exceeded;
use crate::start::{Prepared, Started, prepare, start, start_first};
use crate::state::{self, Activity, Command, Live, Phase, Shared};
use crate::sync::{after, lock};

/// Starts a program for the first time, on a thread of the host's runtime, with what
/// [`prepare`](crate::prepare()) returned, and spawns its watch task.
///
/// # Errors
///
/// `StartFailed`, with the step that failed.
pub async fn supervise(
    program: Arc<Program>,
    capabilities: Capabilities,
    observer: ObserverRef,
    prepared: Result<Prepared, Error>,
) -> Result<Process, Error> {
    let (spawned, _) = oneshot::channel();
    supervise_spawned(program, capabilities, observer, prepared, spawned).await
}

/// Starts a program like [`supervise`], with the capabilities that it is expected to have, and
/// queries them meanwhile. Unless the two are equal, the caller must stop the process.
///
/// # Errors
///
/// `StartFailed`, with the step that failed, of the start and of the query.
pub async fn supervise_expecting(
    program: Arc<Program>,
    expected: Capabilities,
    observer: ObserverRef,
) -> (Result<Process, Error>, Result<Capabilities, Error>) {
    let (spawned, is_spawned) = oneshot::channel();
    let queried = Arc::clone(&program);
    let query = tokio::spawn(async move {
        // The start takes longer, so it comes first. It may fail before that.
        let _ = is_spawned.await;
        queried.capabilities().await
    });
    let prepared = prepare(Arc::clone(&program), Arc::clone(&observer)).await;
    let started = supervise_spawned(program, expected, observer, prepared, spawned).await;
    let found = query.await.unwrap_or_else(|error| {
        Err(Error::at(Step::Capabilities, format!("the query did not finish: {error}")))
    });
    (started, found)
}

async fn supervise_spawned(
    program: Arc<Program>,
    capabilities: Capabilities,
    observer: ObserverRef,
    prepared: Result<Prepared, Error>,
    spawned: oneshot::Sender<()>,
) -> Result<Process, Error> {
    let started = start_first(&program, &capabilities, &observer, prepared, spawned).await?;
    let (commands, receiver) = mpsc::unbounded_channel();
    let (phase, _) = watch::channel(Phase::Serving(Arc::clone(&started.live)));
    let limits = program.sandbox.as_ref().map(|policy| policy.limits).unwrap_or_default();
    let shared = Arc::new(Shared {
        program,
        capabilities,
        phase,
        commands: commands.downgrade(),
        activity: Activity::new(limits.call_cpu_millis.is_some()),
        timers: Handle::current(),
    });
    let task = Watch {
        shared: Arc::clone(&shared),
        observer,
        receiver,
        history: History::new(MAX_BACKOFF),
    };
    tokio::spawn(task.watch(started));
    Ok(Process { shared, commands })
}

/// The grace period of a process that is discarded.
const DISCARD_GRACE: Duration = Duration::from_secs(2);

/// The maximum number of consecutive starts in which a program may exit by its idle timeout before it
/// is ready.
const MAX_IDLE_STARTS: u32 = 3;

/// Longest interval between two idle checks.
const MAX_IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A check whether the process hangs.
type Check = Pin<Box<dyn Future<Output = bool> + Send>>;

struct Watch {
    shared: Arc<Shared>,
    observer: ObserverRef,
    receiver: mpsc::UnboundedReceiver<Command>,
    history: History,
}

/// A stop command, and the sender that reports its completion.
struct Stop {
    graceful: bool,
    done: Option<oneshot::Sender<Result<(), Diagnosis>>>,
}

impl Watch {
    async fn watch(mut self, started: Started) {
        let mut running = Some(started);
        while let Some(started) = running.take() {
            match self.serve(started).await {
                Served::Stopped => return,
                Served::Exited(cause) => running = self.restart(cause).await,
            }
        }
    }

    /// Watches a process until it exits or is stopped.
    async fn serve(&mut self, mut started: Started) -> Served {
        let now = Instant::now();
        self.history.started(now);
        self.shared.activity.started(now);
        let live = Arc::clone(&started.live);
        // The system can take milliseconds to list them, in which this thread serves other processes.
        let pid = live.pid;
        let mut listening = Some(tokio::task::spawn_blocking(move || beyond_loopback(pid)));
        let mut check: Option<Check> = None;
        let shared = Arc::clone(&self.shared);
        let mut exceeded = pin!(exceeded(&live, &shared));
        let mut idle_at = self.idle_timeout().map(|idle_timeout| after(now, idle_timeout));
        loop {
            tokio::select! {
                status = started.child.wait() => {
                    return Served::Exited(self.exited(started, status).await);
                }
                found = listed(&mut listening) => {
                    let printed = || started.printed_beyond_loopback.into_iter().collect();
                    for address in found.unwrap_or_else(printed) {
                        self.observer.listens_beyond_loopback(live.pid, address);
                    }
                }
                command = self.receiver.recv() => match command {
                    Some(Command::Wake) => {}
                    Some(Command::CheckHung { pid }) => {
                        if pid != live.pid {
                            // The call belongs to an earlier process.
                            self.shared.activity.trust();
                        } else if !self.shared.program.limits.health_timeout.is_zero() {
                            let shared = Arc::clone(&self.shared);
                            check = Some(Box::pin(is_hung(shared, Arc::clone(&live))));
                        }
                    }
                    Some(Command::Stop { graceful, done }) => {
                        self.stop(started, Stop { graceful, done: Some(done) }).await;
                        return Served::Stopped;
                    }
                    None => {
                        self.stop(started, Stop { graceful: false, done: None }).await;
                        return Served::Stopped;
                    }
                },
                reason = &mut exceeded => {
                    return Served::Exited(self.discard(started, Duration::ZERO, reason).await);
                }
                is_hung = checked(&mut check) => {
                    check = None;
                    if is_hung {
                        return Served::Exited(self.stop_hung(started).await);
                    }
                    self.shared.activity.trust();
                }
                () = at(idle_at) => {
                    if self.begin_idle_stop(&live) {
                        return Served::Exited(self.stop_idle(started).await);
                    }
                    idle_at = self.idle_timeout().map(|idle_timeout| {
                        let soon = Instant::now() + idle_timeout.min(MAX_IDLE_CHECK_INTERVAL);
                        after(self.shared.activity.last(), idle_timeout).max(soon)
                    });
                }
            }
        }
    }

    /// Returns the idle timeout after which the host stops the process. A program of ours exits by
    /// itself without losing a call; the older dialects do not specify that.
    fn idle_timeout(&self) -> Option<Duration> {
        let idle_timeout = self.shared.program.limits.idle_timeout;
        (!self.is_ours() && !idle_timeout.is_zero()).then_some(idle_timeout)
    }

    fn is_ours(&self) -> bool {
        self.shared.capabilities.is_ours()
    }

    /// Blocks new calls if none is in flight and the idle timeout has passed.
    fn begin_idle_stop(&self, live: &Arc<Live>) -> bool {
        let activity = &self.shared.activity;
        let Some(idle_timeout) = self.idle_timeout() else { return false };
        if activity.is_running() || activity.last().elapsed() < idle_timeout {
            return false;
        }
        self.set_phase(Phase::Starting);
        // A call that read the old phase was counted before this line. A new call waits for the
        // next phase, and is served by the same process.
        if activity.is_running() {
            self.set_phase(Phase::Serving(Arc::clone(live)));
            return false;
        }
        true
    }

    /// Stops a process after its idle timeout.
    async fn stop_idle(&mut self, started: Started) -> ExitCause {
        let _ = started.live.end.set(ExitCause::Idle);
        self.shared.activity.take_has_served();
        let grace = self.shared.program.limits.stop_timeout;
        self.clean_up(started, grace).await;
        ExitCause::Idle
    }

    /// Stops a process that hangs.
    async fn stop_hung(&mut self, started: Started) -> ExitCause {
        let limits = self.shared.program.limits;
        let reason = format!(
            "it did not respond, and the host stopped it: a call exceeded its deadline, and \
             `/healthz` was not answered within {} ms",
            limits.health_timeout.as_millis()
        );
        self.discard(started, (limits.stop_timeout / 2).min(DISCARD_GRACE), reason).await
    }

    /// Stops a process that cannot be used any longer.
    async fn discard(&mut self, started: Started, grace: Duration, reason: String) -> ExitCause {
        let has_served = self.shared.activity.take_has_served();
        let cause = if has_served { ExitCause::Served } else { ExitCause::Unused };
        let _ = started.live.end.set(cause);
        started.live.exit_reason.send_replace(Some(reason.clone().into()));
        self.set_phase(Phase::Starting);
        let pid = started.live.pid;
        self.clean_up(started, grace).await;
        self.observer.exited(pid, reason.into());
        cause
    }

    /// Stops a process on command.
    async fn stop(&mut self, started: Started, stop: Stop) {
        self.set_phase(Phase::Stopped);
        let program = &self.shared.program;
        let stop_timeout = program.limits.stop_timeout;
        let grace = match (stop.graceful, &stop.done) {
            (true, _) => stop_timeout,
            // It may hold resources that the next process needs, as a library releases in its drop.
            (false, Some(_)) => (stop_timeout / 2).min(DISCARD_GRACE),
            (false, None) => Duration::ZERO,
        };
        let (Stopped { status, was_killed }, tail) = self.clean_up(started, grace).await;
        if let Some(done) = stop.done {
            // A program without a SIGTERM handler is killed by the signal. Any exit code of the
            // older dialects counts as success.
            let is_success = status.success()
                || status.signal() == Some(Signal::TERM.as_raw())
                || (!self.is_ours() && status.code().is_some());
            let result = match is_success || !stop.graceful {
                true => Ok(()),
                false if was_killed => Err(why_killed(grace, &lock(&tail)).into()),
                false => Err(program.explain_exit(status, &lock(&tail))),
            };
            let _ = done.send(result);
        }
    }

    /// Reports a process that exited by itself, and cleans up after it.
    async fn exited(&mut self, started: Started, status: ExitStatus) -> ExitCause {
        let activity = &self.shared.activity;
        let idle_timeout = self.shared.program.limits.idle_timeout;
        // The older dialects never exit when idle.
        let was_idle = self.is_ours() && activity.was_idle(idle_timeout, Instant::now());
        let may_be_idle = !activity.is_owed() || was_idle;
        let cause = exit_cause(status, may_be_idle, activity.take_has_served());
        let _ = started.live.end.set(cause);
        self.set_phase(Phase::Starting);
        let live = Arc::clone(&started.live);
        let ran_out_of_memory = started.child.ran_out_of_memory();
        let (_, tail) = self.clean_up(started, Duration::ZERO).await;
        if cause != ExitCause::Idle {
            let reason = match ran_out_of_memory {
                true => "it exceeded its limit `memory_bytes`, and the kernel killed it".into(),
                false => self.shared.program.explain_exit(status, &lock(&tail)),
            };
            live.exit_reason.send_replace(Some(reason.clone()));
            self.observer.exited(live.pid, reason);
        }
        cause
    }

    /// Returns the next process once it is ready, or `None` if a stop was requested.
    async fn restart(&mut self, mut cause: ExitCause) -> Option<Started> {
        let ended_at = Instant::now();
        let mut why = Arc::new(Diagnosis::from("it exited"));
        let mut idle_starts = 0;
        loop {
            let decision = self.history.exited(Instant::now(), cause, random_jitter());
            let waited = match decision {
                Decision::Immediately => NextStep::Start,
                Decision::After(pause) => {
                    let until = Instant::now() + pause;
                    self.set_phase(match cause {
                        ExitCause::NotStarted => Phase::Backoff { why: Arc::clone(&why), until },
                        _ => Phase::Starting,
                    });
                    self.wait(Some(until)).await
                }
                Decision::OnDemand => {
                    self.set_phase(Phase::Idle);
                    self.wait(None).await
                }
            };
            if let NextStep::End(stop) = waited {
                self.set_phase(Phase::Stopped);
                if let Some(done) = stop.done {
                    let _ = done.send(Ok(()));
                }
                return None;
            }
            self.set_phase(Phase::Starting);
            let (program, capabilities) = (&self.shared.program, &self.shared.capabilities);
            let began = Instant::now();
            let started = start(program, capabilities, &self.observer);
            let started = tokio::select! {
                started = started => started,
                stop = next_stop(&mut self.receiver) => {
                    self.set_phase(Phase::Stopped);
                    if let Some(done) = stop.done {
                        let _ = done.send(Ok(()));
                    }
                    return None;
                }
            };
            match started {
                Ok(started) => {
                    let live = Arc::clone(&started.live);
                    self.observer.restarted(live.pid, ended_at.elapsed());
                    self.set_phase(Phase::Serving(live));
                    return Some(started);
                }
                // Its idle timeout passed before the host, on a busy machine, called it.
                Err(failed)
                    if idle_starts < MAX_IDLE_STARTS
                        && failed.has_exited_with_success()
                        && state::is_idle(program.limits.idle_timeout, began.elapsed()) =>
                {
                    idle_starts += 1;
                    cause = ExitCause::Idle;
                }
                Err(failed) => {
                    let step = failed.step().map_or_else(String::new, |step| step.to_string());
                    let failed_at = |why| format!("it failed to restart at step `{step}`: {why}");
                    let reason = failed.into_diagnosis().map_message(failed_at);
                    self.observer.not_restarted(&reason);
                    why = Arc::new(reason);
                    cause = ExitCause::NotStarted;
                }
            }
        }
    }

    /// Waits until the given instant, or until a call needs the process.
    async fn wait(&mut self, until: Option<Instant>) -> NextStep {
        let sleep = at(until);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return NextStep::Start,
                command = self.receiver.recv() => match command {
                    Some(Command::Wake) if until.is_none() => return NextStep::Start,
                    Some(Command::Wake | Command::CheckHung { .. }) => {}
                    Some(Command::Stop { graceful, done }) => {
                        return NextStep::End(Stop { graceful, done: Some(done) });
                    }
                    None => return NextStep::End(Stop { graceful: false, done: None }),
                },
            }
        }
    }

    /// Stops a process and its descendants, reads its remaining output, and removes its sockets.
    async fn clean_up(&self, started: Started, grace: Duration) -> (Stopped, SharedTail) {
        let Started { child, live, readers, tail, services, folder, .. } = started;
        // First: afterward no process holds its pipes.
        let stopped = child.stop(grace).await;
        for reader in readers {
            reader.finish().await;
        }
        // A confined program leaves files only in the host's folder, or where others could replace them.
        if !self.is_ours() && self.shared.program.sandbox.is_none() {
            remove_left(live.client.location(), live.pid);
        }
        drop((services, folder));
        (stopped, tail)
    }

    fn set_phase(&self, phase: Phase) {
        self.shared.phase.send_replace(phase);
    }
}

impl Drop for Watch {
    /// Ends the watch, even if the runtime shuts down, so that no caller waits for a process that
    /// will not start.
    fn drop(&mut self) {
        self.set_phase(Phase::Stopped);
    }
}

enum Served {
    Stopped,
    Exited(ExitCause),
}

enum NextStep {
    Start,
    End(Stop),
}

/// Returns the outcome of a check; pending forever without one.
async fn checked(check: &mut Option<Check>) -> bool {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}

/// Waits for the addresses on which a process listens, once. Cancel safe.
async fn listed(
    addresses: &mut Option<JoinHandle<Option<Vec<SocketAddr>>>>,
) -> Option<Vec<SocketAddr>> {
    let Some(listing) = addresses else { return std::future::pending().await };
    let found = listing.await;
    *addresses = None;
    // It only fails if the runtime shuts down.
    found.unwrap_or_default()
}

/// Waits until the given instant; `None` waits forever.
async fn at(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns the next stop command; a closed channel counts as one.
async fn next_stop(receiver: &mut mpsc::UnboundedReceiver<Command>) -> Stop {
    loop {
        match receiver.recv().await {
            Some(Command::Wake | Command::CheckHung { .. }) => {}
            Some(Command::Stop { graceful, done }) => return Stop { graceful, done: Some(done) },
            None => return Stop { graceful: false, done: None },
        }
    }
}

/// Explains why the host killed it.
fn why_killed(grace: Duration, tail: &Tail) -> String {
    let output = output_suffix(tail);
    let grace = grace.as_millis();
    format!("it did not exit within {grace} ms after SIGTERM, so the host killed it{output}")
}

fn exit_cause(status: ExitStatus, may_be_idle: bool, has_served: bool) -> ExitCause {
    if status.success() && may_be_idle {
        ExitCause::Idle
    } else if has_served {
        ExitCause::Served
    } else {
        ExitCause::Unused
    }
}

/// Returns a random number from 0 to 1, so that restarts of different hosts spread out.
fn random_jitter() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0_u8) >> 11;
    // 53 bits fit a double exactly.
    random as f64 / (1_u64 << 53) as f64
}

/// Delay between two health requests if one failed at once.
const HEALTH_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Returns whether a process hangs: neither `/healthz`, on a new connection, nor any call is
/// answered within the limit. Any response counts, whatever its status.
async fn is_hung(shared: Arc<Shared>, live: Arc<Live>) -> bool {
    let answers = shared.activity.answers();
    let until = after(Instant::now(), shared.program.limits.health_timeout);
    let request = HttpRequest::health();
    let probe = async {
        loop {
            match live.client.send_on_new_connection::<Async>(&request).await {
                Ok(_) => return,
                // Even an invalid response proves that the process is alive.
                Err(error) if error.has_response && error.delivery == Delivery::MaybeSent => {
                    return;
                }
                Err(_) => tokio::time::sleep(HEALTH_RETRY_DELAY).await,
            }
        }
    };
    Async::timeout_at(&shared.timers, until, probe).await.is_none()
        && shared.activity.answers() == answers
}
