//! The threads of one owner: workers at a queue, and errands that are waited for. All of them
//! are joined before the owner lets go of what they ran.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::quiet::{caught, quietly};
use super::{Epoch, OpeningThread, Ran, Seat, Ticket, Work, ticket};
use crate::sync::{deadline_in, lock};

/// Whoever has work for workers.
pub(crate) trait Employer: Send + Sync {
    /// A place for a worker of `epoch`.
    fn sit(&self, epoch: Epoch) -> Seat;
    /// What a worker does next; none: it goes home.
    fn next(self: Arc<Self>, seat: Seat) -> Option<Arc<dyn Work>>;
    /// As [`next`](Self::next), without sleeping: with nothing to do, the worker goes home.
    fn next_now(self: Arc<Self>, seat: Seat) -> Option<Arc<dyn Work>>;
    /// A worker that never sleeps goes home, whatever it was at.
    fn leave(&self, seat: Seat);
    /// Whether its work may run as tasks.
    fn is_walkable(&self) -> bool;
    /// Takes work back that could not be done on this worker.
    fn hand_back(self: Arc<Self>, seat: Seat, work: Arc<dyn Work>);
}

/// Threads under one name that end together.
pub(crate) struct Crew {
    name: String,
    stack_bytes: usize,
    /// Threads at the queue at once.
    pub(crate) workers_max: u32,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// How an errand ended.
#[must_use]
pub(crate) enum Errand<T> {
    /// With this.
    Done(T),
    /// It still runs; its thread is kept.
    Late,
    /// The system gave no thread for it.
    NoThread(io::Error),
}

impl Crew {
    /// A crew without threads yet. `name` is what debuggers show.
    pub(crate) fn new(name: String, stack_bytes: u64, workers_max: u32) -> Self {
        Self {
            name,
            stack_bytes: usize::try_from(stack_bytes).unwrap_or(usize::MAX),
            workers_max,
            threads: Mutex::default(),
        }
    }

    /// Runs `errand` on a thread of its own and waits for it, at most `wait_max`.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        wait_max: Duration,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> Errand<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let spawned = self.builder().spawn(move || {
            let _ = sender.send(errand());
        });
        let thread = match spawned {
            Ok(thread) => thread,
            Err(error) => return Errand::NoThread(error),
        };
        match receiver.recv_timeout(wait_max) {
            Ok(done) => {
                // Thread-locals of the errand are gone after this.
                let _ = thread.join();
                Errand::Done(done)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.add(thread);
                Errand::Late
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let _ = thread.join();
                Errand::NoThread(io::Error::other("its thread ended without a word"))
            }
        }
    }

    /// Starts a thread that is to open a library. It is not one of those that are joined here.
    pub(crate) fn opening_thread(&self) -> io::Result<OpeningThread> {
        OpeningThread::spawn(self.builder())
    }

    /// Runs `errand` on a thread of its own; the ticket waits for it.
    pub(crate) fn send<T: Send + 'static>(
        &self,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Ticket<T>> {
        let (teller, ticket) = ticket();
        let thread = self.builder().spawn(move || teller.tell(errand()))?;
        self.add(thread);
        Ok(ticket)
    }

    /// Starts a worker for one epoch, which tells its work that it is of `generation`.
    pub(crate) fn hire(
        &self,
        employer: Arc<dyn Employer>,
        epoch: Epoch,
        generation: u64,
    ) -> io::Result<()> {
        let thread = self.builder().spawn(move || {
            let seat = employer.sit(epoch);
            while let Some(work) = Arc::clone(&employer).next(seat) {
                match caught(|| Arc::clone(&work).run(generation)) {
                    Ok(Ran::Done) => {}
                    Ok(Ran::NotHere) => Arc::clone(&employer).hand_back(seat, work),
                    // What unwinds out of work is not the plugin's, and no reason to stop.
                    Err(message) => {
                        quietly(|| work.broke());
                        tracing::error!(message, "work of the host's own panicked on a worker");
                    }
                }
            }
        })?;
        self.add(thread);
        Ok(())
    }

    fn add(&self, thread: JoinHandle<()>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Joins the threads that end within `wait_max`; tells how many still run.
    pub(crate) fn join(&self, wait_max: Duration) -> usize {
        let deadline = deadline_in(wait_max);
        let mut left = std::mem::take(&mut *lock(&self.threads));
        loop {
            let (ended, running): (Vec<_>, Vec<_>) =
                left.into_iter().partition(JoinHandle::is_finished);
            for thread in ended {
                let _ = thread.join();
            }
            left = running;
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
            // std has no join with a limit.
            std::thread::sleep(Duration::from_micros(200));
        }
        let count = left.len();
        lock(&self.threads).append(&mut left);
        count
    }

    fn builder(&self) -> Builder {
        Builder::new().name(self.name.clone()).stack_size(self.stack_bytes)
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("name", &self.name).finish_non_exhaustive()
    }
}
