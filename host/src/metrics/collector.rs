//! Collects events from many threads and counts each accepted one on its own threads. Never loses
//! an accepted event, neither on stop nor when the store panics.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, ThreadId};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::channel::{BatchDone, Channel};
use super::store::MetricStore;
use crate::panic::catch_panic;
use crate::sync::{SameProcess, lock};

/// The limits of a [`Collector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectorLimits {
    /// Threads that call the store; 1 to [`MAX_WORKERS`](Self::MAX_WORKERS). Default: 2.
    pub workers: u32,
    /// Accepted events that may wait for a worker, besides up to 64 that each worker holds; not
    /// zero. Default: 1,024.
    pub max_queued_events: u32,
}

impl CollectorLimits {
    /// The maximum number of workers.
    pub const MAX_WORKERS: u32 = 1024;
}

impl Default for CollectorLimits {
    fn default() -> Self {
        Self { workers: 2, max_queued_events: 1024 }
    }
}

/// The counts of a [`Collector`]. After its stop, `accepted` is the sum of `counted` and `failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Events that were accepted.
    pub accepted: u64,
    /// Events that the store counted.
    pub counted: u64,
    /// Events on which the store panicked.
    pub failed: u64,
}

/// The reason a collector did not start, or did not accept an event.
#[derive(Debug)]
#[non_exhaustive]
pub enum CollectError {
    /// The number of workers is zero or too large: see [`CollectorLimits::workers`].
    Workers {
        /// The requested number.
        wanted: u32,
    },
    /// The channel has no space for any event.
    NoCapacity,
    /// A worker thread could not be started.
    NoThread(std::io::Error),
    /// The channel is full. Retry later, or wait with [`Collector::record`].
    Full {
        /// Events that the channel holds.
        max_queued_events: usize,
    },
    /// The collector has been stopped.
    Stopped,
    /// This process was forked after the collector was started; the workers exist only in the
    /// parent.
    Forked,
}

/// Counts events in a [`MetricStore`] in the background.
///
/// Events pass through a bounded channel to a fixed number of threads: if they arrive faster than
/// the store counts them, [`record`](Self::record) waits. The collector stops when its token is
/// cancelled, by [`stop`](Self::stop), or when it is dropped. From then on it accepts nothing, and
/// still counts everything that it has accepted.
///
/// ```
/// use std::sync::Arc;
/// use hotbay::CancellationToken;
/// use hotbay::metrics::{Collector, CollectorLimits, MemoryStore, MetricStore};
///
/// let store = Arc::new(MemoryStore::default());
/// let limits = CollectorLimits::default();
/// let collector = Collector::start(store.clone(), limits, CancellationToken::new())?;
/// collector.record_blocking("logins")?;
/// let collected = collector.stop();
/// assert_eq!((collected.accepted, collected.counted, store.get("logins")), (1, 1, 1));
/// # Ok::<(), hotbay::metrics::CollectError>(())
/// ```
pub struct Collector {
    channel: Arc<Channel>,
    /// Empty once they were joined; locked meanwhile, so that every `stop` waits for the end.
    workers: Mutex<Vec<JoinHandle<()>>>,
    worker_ids: Vec<ThreadId>,
    /// Wakes [`Stopper`] on cancellation, until this is dropped.
    until_cancelled: SameProcess<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Collector {
    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// `Workers` if their number is zero or too large, `NoCapacity` for a channel of length zero,
    /// `NoThread`. A cancelled token is not an error: nothing will be accepted.
    pub fn start(
        store: Arc<dyn MetricStore>,
        limits: CollectorLimits,
        token: CancellationToken,
    ) -> Result<Self, CollectError> {
        let CollectorLimits { workers, max_queued_events } = limits;
        if !(1..=CollectorLimits::MAX_WORKERS).contains(&workers) {
            return Err(CollectError::Workers { wanted: workers });
        }
        let max_events = usize::try_from(max_queued_events).unwrap_or(usize::MAX);
        if max_events == 0 {
            return Err(CollectError::NoCapacity);
        }
        let channel = Arc::new(Channel::new(max_events, workers as usize));
        let mut collector = Self {
            until_cancelled: SameProcess::new(stops_with(token, &channel)),
            workers: Mutex::default(),
            worker_ids: Vec::new(),
            channel,
        };
        for _ in 0..workers {
            // Started workers exit when the collector is dropped here.
            collector.add_worker(&store).map_err(CollectError::NoThread)?;
        }
        Ok(collector)
    }

    fn add_worker(&mut self, store: &Arc<dyn MetricStore>) -> std::io::Result<()> {
        let (channel, store) = (Arc::clone(&self.channel), Arc::clone(store));
        let worker = thread::Builder::new().name("hotbay-metrics".to_owned());
        let worker = worker.spawn(move || run_worker(&channel, &*store))?;
        self.worker_ids.push(worker.thread().id());
        lock(&self.workers).push(worker);
        Ok(())
    }

    /// Records an event; waits for space in the channel. Runs on any executor.
    ///
    /// Waiting callers are served in order. If the future is dropped while it waits, the event is
    /// not accepted, unless that happened at the same moment.
    ///
    /// # Errors
    ///
    /// `Stopped`, also if the collector stops while this waits: the event will not be counted.
    pub async fn record(&self, key: impl Into<Cow<'static, str>>) -> Result<(), CollectError> {
        self.check_process()?;
        self.channel.send(key.into()).await
    }

    /// Records an event if the channel has space.
    ///
    /// # Errors
    ///
    /// `Full`, `Stopped`.
    pub fn try_record(&self, key: impl Into<Cow<'static, str>>) -> Result<(), CollectError> {
        self.check_process()?;
        self.channel.try_send(key.into())
    }

    /// Records an event; blocks this thread for space in the channel. Must not be called by the
    /// store, which would wait for its own worker.
    ///
    /// # Errors
    ///
    /// The same as [`record`](Self::record).
    pub fn record_blocking(&self, key: impl Into<Cow<'static, str>>) -> Result<(), CollectError> {
        self.check_process()?;
        self.channel.send_blocking(key.into())
    }

    /// Returns the counts of the batches that workers have finished.
    pub fn collected(&self) -> Collected {
        if self.check_process().is_err() {
            return Collected::default();
        }
        self.channel.collected()
    }

    /// Rejects further events, blocks this thread until all accepted events are counted, and
    /// returns the final counts.
    ///
    /// May be called again and from several threads: each call waits and returns the same counts.
    /// If the store itself calls it, it does not wait, and the counts are not final. It waits for a
    /// store that hangs.
    pub fn stop(&self) -> Collected {
        if self.check_process().is_err() {
            return Collected::default();
        }
        self.channel.stop();
        if !self.worker_ids.contains(&thread::current().id()) {
            for worker in lock(&self.workers).drain(..) {
                // Panics of the store are caught and counted in `failed`.
                let _ = worker.join();
            }
        }
        self.collected()
    }

    fn check_process(&self) -> Result<(), CollectError> {
        if self.until_cancelled.is_current() { Ok(()) } else { Err(CollectError::Forked) }
    }
}

impl Drop for Collector {
    /// Stops like [`stop`](Collector::stop).
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a worker until the channel is stopped and empty.
fn run_worker(channel: &Channel, store: &dyn MetricStore) {
    let mut batch = Vec::new();
    let mut done = BatchDone::default();
    while channel.take(&mut batch, std::mem::take(&mut done)) {
        for key in batch.drain(..) {
            match catch_panic(|| store.inc(&key)) {
                Ok(()) => done.counted += 1,
                Err(_) => done.failed += 1,
            }
        }
    }
}

/// Stops a channel when it is woken.
struct Stopper(Arc<Channel>);

impl Wake for Stopper {
    fn wake(self: Arc<Self>) {
        self.0.stop();
    }
}

/// Stops `channel` when `token` is cancelled, on the thread that cancels it.
fn stops_with(
    token: CancellationToken,
    channel: &Arc<Channel>,
) -> Pin<Box<WaitForCancellationFutureOwned>> {
    let mut cancelled = Box::pin(token.cancelled_owned());
    let waker = Waker::from(Arc::new(Stopper(Arc::clone(channel))));
    // Polled once: the token wakes its wakers when it is cancelled, and never before.
    if let Poll::Ready(()) = cancelled.as_mut().poll(&mut Context::from_waker(&waker)) {
        channel.stop();
    }
    cancelled
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("collected", &self.collected()).finish_non_exhaustive()
    }
}

impl fmt::Display for CollectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workers { wanted } => {
                let max = CollectorLimits::MAX_WORKERS;
                write!(f, "cannot start a collector with {wanted} workers; expected 1 to {max}")
            }
            Self::NoCapacity => f.write_str(
                "cannot start a collector with `max_queued_events` 0; expected at least 1",
            ),
            Self::NoThread(_) => f.write_str("cannot start a thread for a worker"),
            Self::Full { max_queued_events } => {
                write!(f, "the channel is full (`max_queued_events` is {max_queued_events})")
            }
            Self::Stopped => f.write_str("the collector is stopped"),
            Self::Forked => f.write_str("this process was forked after the collector was started"),
        }
    }
}

impl StdError for CollectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NoThread(error) => Some(error),
            _ => None,
        }
    }
}
