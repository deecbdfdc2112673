//! The task that watches one process: ends what is left of it when it exits, starts it again
//! after the pause that the policy wants, and ends it when it is told to.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::asking::Shared;
use super::dialect::Capabilities;
use super::pipes::SharedTail;
use super::process::Process;
use super::program::{Overseen, Program};
use super::restart::{BACK_OFF_MAX, Decision, History, How};
use super::start::{self, NotStarted, Started};
use super::state::{Order, Phase};
use crate::sync::lock;

/// Starts a program for the first time, and has it watched from then on.
pub(crate) async fn begin(
    program: Arc<Program>,
    capabilities: Capabilities,
    overseer: Overseen,
) -> Result<Process, NotStarted> {
    let started = start::start(&program, &capabilities, &overseer).await?;
    let (orders, to_do) = mpsc::unbounded_channel();
    let (phase, _) = watch::channel(Phase::Serving(Arc::clone(&started.live)));
    let shared = Arc::new(Shared {
        program,
        capabilities,
        phase,
        orders: orders.downgrade(),
        running: 0.into(),
        has_served: false.into(),
    });
    let task =
        Watch { shared: Arc::clone(&shared), overseer, to_do, history: History::new(BACK_OFF_MAX) };
    tokio::spawn(task.watch(started));
    Ok(Process { shared, orders })
}

/// How long a process may take to end that is not wanted after all.
const DISCARD_WAIT_MAX: Duration = Duration::from_secs(2);

struct Watch {
    shared: Arc<Shared>,
    overseer: Overseen,
    to_do: mpsc::UnboundedReceiver<Order>,
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
        self.history.started(Instant::now());
        let watched = tokio::select! {
            status = started.child.wait() => Ok(status),
            stop = next_stop(&mut self.to_do) => Err(stop),
        };
        match watched {
            Ok(status) => Served::Exited(self.exited(started, status).await),
            Err(stop) => {
                self.end(started, stop).await;
                Served::Stopped
            }
        }
    }

    /// Ends a process that is not wanted any more.
    async fn end(&mut self, started: Started, stop: Stop) {
        self.turn(Phase::Ended);
        let program = &self.shared.program;
        let stop_wait_max = program.limits.stop_wait_max;
        let grace = match (stop.graceful, &stop.done) {
            (true, _) => stop_wait_max,
            // It may own what the next one wants, as a library lets go of in its drop.
            (false, Some(_)) => (stop_wait_max / 2).min(DISCARD_WAIT_MAX),
            (false, None) => Duration::ZERO,
        };
        let (status, tail) = clear_away(started, grace).await;
        if let Some(done) = stop.done {
            // One that has no way of its own to end, ends of the signal that asks it to.
            let as_asked = status.success() || status.signal() == Some(Signal::TERM.as_raw());
            let ended = match as_asked || !stop.graceful {
                true => Ok(()),
                false => Err(program.why_exited(status, &lock(&tail))),
            };
            let _ = done.send(ended);
        }
    }

    /// Tells of a process that ended by itself, and clears away what it left.
    async fn exited(&mut self, started: Started, status: ExitStatus) -> How {
        let was_running = self.shared.running.load(Ordering::Relaxed) > 0;
        let has_served = self.shared.has_served.swap(false, Ordering::Relaxed);
        self.turn(Phase::Starting);
        let how = how_it_ended(status, was_running, has_served);
        let pid = started.live.pid;
        let (_, tail) = clear_away(started, Duration::ZERO).await;
        if how != How::Idle {
            let reason = self.shared.program.why_exited(status, &lock(&tail));
            self.overseer.exited(pid, reason);
        }
        how
    }

    /// The next process, as soon as there is one; none: it is not wanted any more.
    async fn next(&mut self, mut how: How) -> Option<Started> {
        let ended_at = Instant::now();
        let mut why: Arc<str> = Arc::from("it exited");
        loop {
            let decision = self.history.exited(Instant::now(), how, chance());
            let waited = match decision {
                Decision::AtOnce => Wanted::Start,
                Decision::After(pause) => {
                    let until = Instant::now() + pause;
                    self.turn(match how {
                        How::NotStarted => Phase::Down { why: Arc::clone(&why), until },
                        _ => Phase::Starting,
                    });
                    self.wait(Some(until)).await
                }
                Decision::OnDemand => {
                    self.turn(Phase::Asleep);
                    self.wait(None).await
                }
            };
            if let Wanted::End(stop) = waited {
                self.turn(Phase::Ended);
                if let Some(done) = stop.done {
                    let _ = done.send(Ok(()));
                }
                return None;
            }
            self.turn(Phase::Starting);
            let (program, capabilities) = (&self.shared.program, &self.shared.capabilities);
            let started = start::start(program, capabilities, &self.overseer);
            let started = tokio::select! {
                started = started => started,
                stop = next_stop(&mut self.to_do) => {
                    self.turn(Phase::Ended);
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
                    self.turn(Phase::Serving(live));
                    return Some(started);
                }
                Err(NotStarted { step, message }) => {
                    let reason = format!("it did not start again, at the step `{step}`: {message}");
                    self.overseer.not_restarted(&reason);
                    why = reason.into();
                    how = How::NotStarted;
                }
            }
        }
    }

    /// Waits until then, or until a call wants it.
    async fn wait(&mut self, until: Option<Instant>) -> Wanted {
        let sleep = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return Wanted::Start,
                order = self.to_do.recv() => match order {
                    Some(Order::Wake) if until.is_none() => return Wanted::Start,
                    Some(Order::Wake) => {}
                    Some(Order::Stop { graceful, done }) => {
                        return Wanted::End(Stop { graceful, done: Some(done) });
                    }
                    None => return Wanted::End(Stop { graceful: false, done: None }),
                },
            }
        }
    }

    fn turn(&self, phase: Phase) {
        self.shared.phase.send_replace(phase);
    }
}

impl Drop for Watch {
    /// Also where the runtime ends: nobody waits for a process that nobody starts.
    fn drop(&mut self) {
        self.turn(Phase::Ended);
    }
}

/// Ends a process and all that it started, reads what it still had to say, and removes its
/// sockets.
async fn clear_away(started: Started, grace: Duration) -> (ExitStatus, SharedTail) {
    let Started { child, readers, tail, services, folder, .. } = started;
    // First: then nobody else holds its pipes.
    let status = child.stop(grace).await;
    for reader in readers {
        reader.end().await;
    }
    drop((services, folder));
    (status, tail)
}

enum Served {
    Stopped,
    Exited(How),
}

enum Wanted {
    Start,
    End(Stop),
}

/// The next order to end it; nobody who could give one is left counts as one.
async fn next_stop(to_do: &mut mpsc::UnboundedReceiver<Order>) -> Stop {
    loop {
        match to_do.recv().await {
            Some(Order::Wake) => {}
            Some(Order::Stop { graceful, done }) => return Stop { graceful, done: Some(done) },
            None => return Stop { graceful: false, done: None },
        }
    }
}

fn how_it_ended(status: ExitStatus, was_running: bool, has_served: bool) -> How {
    if status.success() && !was_running {
        How::Idle
    } else if has_served {
        How::Served
    } else {
        How::Unused
    }
}

/// A number from 0 to 1 that differs from host to host, so that their restarts spread out.
fn chance() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(0_u8) >> 11;
    // 53 bits fit a double exactly.
    random as f64 / (1_u64 << 53) as f64
}
