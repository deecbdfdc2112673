//! The task that watches one process: ends what is left of it when it exits, starts it again
//! after the pause that the policy wants, and ends it when it is told to.

use std::os::unix::process::ExitStatusExt as _;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::activity::{self, Activity};
use super::child::Stopped;
use super::diagnose;
use super::dialect::{Capabilities, Dialect};
use super::hung::is_hung;
use super::leftovers;
use super::lines::Tail;
use super::listeners;
use super::pipes::SharedTail;
use super::process::Process;
use super::program::{ObserverRef, Program};
use super::requests::Shared;
use super::restart::{BACK_OFF_MAX, Decision, ExitCause, History};
use super::start::{self, NotStarted, Started};
use super::state::{Command, Live, Phase};
use crate::sync::lock;

/// Starts a program for the first time, and has it watched from then on.
pub(crate) async fn begin(
    program: Arc<Program>,
    capabilities: Capabilities,
    overseer: ObserverRef,
) -> Result<Process, NotStarted> {
    let started = start::start(&program, &capabilities, &overseer).await?;
    let (orders, to_do) = mpsc::unbounded_channel();
    let (phase, _) = watch::channel(Phase::Serving(Arc::clone(&started.live)));
    let shared = Arc::new(Shared {
        program,
        capabilities,
        phase,
        commands: orders.downgrade(),
        activity: Activity::new(),
    });
    let task =
        Watch { shared: Arc::clone(&shared), overseer, to_do, history: History::new(BACK_OFF_MAX) };
    tokio::spawn(task.watch(started));
    Ok(Process { shared, orders })
}

/// How long a process may take to end that is not expected after all.
const DISCARD_WAIT_MAX: Duration = Duration::from_secs(2);

/// Between two looks whether a process is idle, at most.
const IDLE_LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// Finds out whether a process is hung.
type Check = Pin<Box<dyn Future<Output = bool> + Send>>;

struct Watch {
    shared: Arc<Shared>,
    overseer: ObserverRef,
    to_do: mpsc::UnboundedReceiver<Command>,
    history: History,
}

/// What the task was told to do, and who wants to hear that it was done.
struct Stop {
    graceful: bool,
    done: Option<oneshot::Sender<Result<(), String>>>,
}

impl Watch {
    async fn watch(mut self, started: Started) {
        let mut running = Some(started);
        while let Some(started) = running.take() {
            match self.serve(started).await {
                Served::Stopped => return,
                Served::Exited(how) => running = self.next(how).await,
            }
        }
    }

    /// Watches a process until it exits or is to be ended.
    async fn serve(&mut self, mut started: Started) -> Served {
        let now = Instant::now();
        self.history.started(now);
        self.shared.activity.started(now);
        let live = Arc::clone(&started.live);
        let beyond = listeners::beyond_loopback(live.pid);
        let printed = || started.printed_beyond_loopback.into_iter().collect();
        for address in beyond.unwrap_or_else(printed) {
            self.overseer.listens_beyond_loopback(live.pid, address);
        }
        let mut check: Option<Check> = None;
        let mut idle_at = self.idle_max().map(|idle_max| now + idle_max);
        loop {
            tokio::select! {
                status = started.child.wait() => {
                    return Served::Exited(self.exited(started, status).await);
                }
                order = self.to_do.recv() => match order {
                    Some(Command::Wake) => {}
                    Some(Command::CheckHung { pid }) => {
                        if pid == live.pid && !self.shared.program.limits.health_timeout.is_zero() {
                            let shared = Arc::clone(&self.shared);
                            check = Some(Box::pin(is_hung(shared, Arc::clone(&live))));
                        }
                    }
                    Some(Command::Stop { graceful, done }) => {
                        self.end(started, Stop { graceful, done: Some(done) }).await;
                        return Served::Stopped;
                    }
                    None => {
                        self.end(started, Stop { graceful: false, done: None }).await;
                        return Served::Stopped;
                    }
                },
                is_hung = checked(&mut check) => {
                    check = None;
                    if is_hung {
                        return Served::Exited(self.end_hung(started).await);
                    }
                    self.shared.activity.trust();
                }
                () = at(idle_at) => {
                    if self.begins_idle_end(&live) {
                        return Served::Exited(self.end_idle(started).await);
                    }
                    idle_at = self.idle_max().map(|idle_max| {
                        let soon = Instant::now() + idle_max.min(IDLE_LOOK_EVERY_MAX);
                        (self.shared.activity.last() + idle_max).max(soon)
                    });
                }
            }
        }
    }

    /// Without calls for how long the host ends the process: a program of ours exits by itself,
    /// in a way that no call is lost by; the older dialects do not say how theirs do.
    fn idle_max(&self) -> Option<Duration> {
        let idle_max = self.shared.program.limits.idle_max;
        (!self.is_ours() && !idle_max.is_zero()).then_some(idle_max)
    }

    fn is_ours(&self) -> bool {
        matches!(self.shared.capabilities.dialect, Dialect::Ours { .. })
    }

    /// Holds calls back if none is under way and none was for the idle time.
    fn begins_idle_end(&self, live: &Arc<Live>) -> bool {
        let activity = &self.shared.activity;
        let Some(idle_max) = self.idle_max() else { return false };
        if activity.is_running() || activity.last().elapsed() < idle_max {
            return false;
        }
        self.set_phase(Phase::Starting);
        // A call that has seen the phase before was counted before that; one that comes now
        // waits for the next phase, and is served by the same process.
        if activity.is_running() {
            self.set_phase(Phase::Serving(Arc::clone(live)));
            return false;
        }
        true
    }

    /// Ends a process that nobody has called for the idle time.
    async fn end_idle(&mut self, started: Started) -> ExitCause {
        let _ = started.live.end.set(ExitCause::Idle);
        self.shared.activity.take_has_served();
        let grace = self.shared.program.limits.stop_timeout;
        self.clear_away(started, grace).await;
        ExitCause::Idle
    }

    /// Ends a process that does not answer.
    async fn end_hung(&mut self, started: Started) -> ExitCause {
        let has_served = self.shared.activity.take_has_served();
        let how = if has_served { ExitCause::Served } else { ExitCause::Unused };
        let _ = started.live.end.set(how);
        self.set_phase(Phase::Starting);
        let pid = started.live.pid;
        let limits = self.shared.program.limits;
        self.clear_away(started, (limits.stop_timeout / 2).min(DISCARD_WAIT_MAX)).await;
        let reason = format!(
            "it was hung, and the host has ended it: a call passed its deadline, and `/healthz` \
             was not answered within {} ms",
            limits.health_timeout.as_millis()
        );
        self.overseer.exited(pid, reason);
        how
    }

    /// Ends a process that is not expected any more.
    async fn end(&mut self, started: Started, stop: Stop) {
        self.set_phase(Phase::Stopped);
        let program = &self.shared.program;
        let stop_timeout = program.limits.stop_timeout;
        let grace = match (stop.graceful, &stop.done) {
            (true, _) => stop_timeout,
            // It may own what the next one wants, as a library lets go of in its drop.
            (false, Some(_)) => (stop_timeout / 2).min(DISCARD_WAIT_MAX),
            (false, None) => Duration::ZERO,
        };
        let (Stopped { status, was_killed }, tail) = self.clear_away(started, grace).await;
        if let Some(done) = stop.done {
            // One that has no way of its own to end, ends of the signal that asks it to. What the
            // older dialects exit with when their server has ended is no failure.
            let as_asked = status.success()
                || status.signal() == Some(Signal::TERM.as_raw())
                || (!self.is_ours() && status.code().is_some());
            let ended = match as_asked || !stop.graceful {
                true => Ok(()),
                false if was_killed => Err(why_killed(grace, &lock(&tail))),
                false => Err(program.why_exited(status, &lock(&tail))),
            };
            let _ = done.send(ended);
        }
    }

    /// Tells of a process that ended by itself, and clears away what it left.
    async fn exited(&mut self, started: Started, status: ExitStatus) -> ExitCause {
        let activity = &self.shared.activity;
        let idle_max = self.shared.program.limits.idle_max;
        let may_be_idle = !activity.is_owed() || activity.was_idle(idle_max, Instant::now());
        let how = how_it_ended(status, may_be_idle, activity.take_has_served());
        let _ = started.live.end.set(how);
        self.set_phase(Phase::Starting);
        let pid = started.live.pid;
        let (_, tail) = self.clear_away(started, Duration::ZERO).await;
        if how != ExitCause::Idle {
            let reason = self.shared.program.why_exited(status, &lock(&tail));
            self.overseer.exited(pid, reason);
        }
        how
    }

    /// The next process, as soon as there is one; none: it is not expected any more.
    async fn next(&mut self, mut how: ExitCause) -> Option<Started> {
        let ended_at = Instant::now();
        let mut why: Arc<str> = Arc::from("it exited");
        loop {
            let decision = self.history.exited(Instant::now(), how, chance());
            let waited = match decision {
                Decision::AtOnce => NextStep::Start,
                Decision::After(pause) => {
                    let until = Instant::now() + pause;
                    self.set_phase(match how {
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
            let started = start::start(program, capabilities, &self.overseer);
            let started = tokio::select! {
                started = started => started,
                stop = next_stop(&mut self.to_do) => {
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
                    self.overseer.restarted(live.pid, ended_at.elapsed());
                    self.set_phase(Phase::Serving(live));
                    return Some(started);
                }
                // Its idle time was over before the host, on a busy machine, came to call it.
                Err(failed)
                    if failed.has_exited_well
                        && activity::is_idle(program.limits.idle_max, began.elapsed()) =>
                {
                    how = ExitCause::Idle;
                }
                Err(NotStarted { step, message, .. }) => {
                    let reason = format!("it did not start again, at the step `{step}`: {message}");
                    self.overseer.not_restarted(&reason);
                    why = reason.into();
                    how = ExitCause::NotStarted;
                }
            }
        }
    }

    /// Waits until then, or until a call wants it.
    async fn wait(&mut self, until: Option<Instant>) -> NextStep {
        let sleep = at(until);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return NextStep::Start,
                order = self.to_do.recv() => match order {
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

    /// Ends a process and all that it started, reads what it still had to say, and removes its
    /// sockets.
    async fn clear_away(&self, started: Started, grace: Duration) -> (Stopped, SharedTail) {
        let Started { child, live, readers, tail, services, folder, .. } = started;
        // First: then nobody else holds its pipes.
        let stopped = child.stop(grace).await;
        for reader in readers {
            reader.end().await;
        }
        if !self.is_ours() {
            leftovers::remove(live.client.location(), live.pid);
        }
        drop((services, folder));
        (stopped, tail)
    }

    fn set_phase(&self, phase: Phase) {
        self.shared.phase.send_replace(phase);
    }
}

impl Drop for Watch {
    /// Also where the runtime ends: nobody waits for a process that nobody starts.
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

/// The outcome of a check; never where there is none.
async fn checked(check: &mut Option<Check>) -> bool {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}

/// Waits until then; `None` is never.
async fn at(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// The next order to end it; nobody who could give one is left counts as one.
async fn next_stop(to_do: &mut mpsc::UnboundedReceiver<Command>) -> Stop {
    loop {
        match to_do.recv().await {
            Some(Command::Wake | Command::CheckHung { .. }) => {}
            Some(Command::Stop { graceful, done }) => return Stop { graceful, done: Some(done) },
            None => return Stop { graceful: false, done: None },
        }
    }
}

/// Why the host killed it.
fn why_killed(grace: Duration, tail: &Tail) -> String {
    let words = diagnose::output_of(tail).map_or_else(String::new, |words| format!("\n{words}"));
    let grace = grace.as_millis();
    format!("it did not end within {grace} ms after SIGTERM, so the host killed it{words}")
}

fn how_it_ended(status: ExitStatus, may_be_idle: bool, has_served: bool) -> ExitCause {
    if status.success() && may_be_idle {
        ExitCause::Idle
    } else if has_served {
        ExitCause::Served
    } else {
        ExitCause::Unused
    }
}

/// A number from 0 to 1 that differs from host to host, so that their restarts spread out.
fn chance() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0_u8) >> 11;
    // 53 bits fit a double exactly.
    random as f64 / (1_u64 << 53) as f64
}
