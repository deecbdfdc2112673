//! Takes events from many places and counts each one it accepted, on threads of its own.
//! Never drops an accepted event: not at its end, and not for a store that panics.

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

/// What a [`Collector`] may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectorLimits {
    /// Threads that call the store; 1 to [`WORKERS_MAX`](Self::WORKERS_MAX). Default: 2.
    pub workers: u32,
    /// Accepted events that may wait for a worker, besides at most 64 in the hands of each
    /// one; not zero. Default: 1,024.
    pub max_queued_events: u32,
}

impl CollectorLimits {
    /// The most workers that a collector can have.
    pub const MAX_WORKERS: u32 = 1024;
}

impl Default for CollectorLimits {
    fn default() -> Self {
        Self { workers: 2, max_queued_events: 1024 }
    }
}

/// What a [`Collector`] did. At its end `accepted` is `counted` and `failed` together.
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

/// Why a collector did not start, or did not accept an event.
#[derive(Debug)]
#[non_exhaustive]
pub enum CollectError {
    /// No worker, or too many: see [`CollectorLimits::workers`].
    Workers {
        /// How many were wanted.
        wanted: u32,
    },
    /// A channel without room, in which nothing could ever wait.
    NoRoom,
    /// The system gave no thread for a worker.
    NoThread(std::io::Error),
    /// The channel is full: try later, or wait by [`Collector::record`].
    Full {
        /// Events that the channel holds.
        max_queued_events: usize,
    },
    /// The collector has been stopped.
    Stopped,
    /// This process was forked after the collector was started, and its workers are in the
    /// parent only.
    Forked,
}

/// Counts events in a [`MetricStore`], in the background.
///
/// Events go through a bounded channel to a fixed number of threads: where they come faster
/// than the store takes them, [`record`](Self::record) waits. It ends when its token is
/// cancelled, by [`stop`](Self::stop), or when it is dropped: from that moment on nothing is
/// accepted, and everything that was accepted before is still counted.
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
    /// Empty once they were joined; locked while they are, so that everybody waits for the end.
    workers: Mutex<Vec<JoinHandle<()>>>,
    worker_ids: Vec<ThreadId>,
    /// Wakes [`Stopper`]; nobody does any more once this is dropped.
    until_cancelled: SameProcess<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Collector {
    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// `Workers` for none or too many, `NoRoom` for a channel of length zero, `SpawnFailed`. A
    /// token that is cancelled already is no error: nothing will be accepted.
    pub fn start(
        store: Arc<dyn MetricStore>,
        limits: CollectorLimits,
        token: CancellationToken,
    ) -> Result<Self, CollectError> {
        let CollectorLimits { workers, max_queued_events } = limits;
        if !(1..=CollectorLimits::MAX_WORKERS).contains(&workers) {
            return Err(CollectError::Workers { wanted: workers });
        }
        let events_max = usize::try_from(max_queued_events).unwrap_or(usize::MAX);
        if events_max == 0 {
            return Err(CollectError::NoRoom);
        }
        let channel = Arc::new(Channel::new(events_max, workers as usize));
        let mut collector = Self {
            until_cancelled: SameProcess::new(stops_with(token, &channel)),
            workers: Mutex::default(),
            worker_ids: Vec::new(),
            channel,
        };
        for _ in 0..workers {
            // Those that were started end when the collector is dropped here.
            collector.add_worker(&store).map_err(CollectError::NoThread)?;
        }
        Ok(collector)
    }

    fn add_worker(&mut self, store: &Arc<dyn MetricStore>) -> std::io::Result<()> {
        let (channel, store) = (Arc::clone(&self.channel), Arc::clone(store));
        let worker = thread::Builder::new().name("hotbay-metrics".to_owned());
        let worker = worker.spawn(move || work(&channel, &*store))?;
        self.worker_ids.push(worker.thread().id());
        lock(&self.workers).push(worker);
        Ok(())
    }

    /// Records an event, waiting for room. Runs on any executor.
    ///
    /// Those who wait are served in the order in which they came. If the future is dropped
    /// while it waits, the event is not accepted, unless that happened at the same moment.
    ///
    /// # Errors
    ///
    /// `Stopped`, also when that happens while it waits: the event will not be counted.
    pub async fn record(&self, key: impl Into<Cow<'static, str>>) -> Result<(), CollectError> {
        self.check_process()?;
        self.channel.send(key.into()).await
    }

    /// Records an event if there is room now.
    ///
    /// # Errors
    ///
    /// `Full`, `Stopped`.
    pub fn try_record(&self, key: impl Into<Cow<'static, str>>) -> Result<(), CollectError> {
        self.check_process()?;
        self.channel.try_send(key.into())
    }

    /// Records an event, waiting for room on this thread. Not for the store itself, which
    /// would wait for its own worker.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record).
    pub fn record_blocking(&self, key: impl Into<Cow<'static, str>>) -> Result<(), CollectError> {
        self.check_process()?;
        self.channel.send_blocking(key.into())
    }

    /// What was done so far, as of the batches that workers are done with.
    pub fn collected(&self) -> Collected {
        if self.check_process().is_err() {
            return Collected::default();
        }
        self.channel.collected()
    }

    /// Accepts nothing more, waits on this thread until every accepted event was counted, and
    /// answers with the final figures.
    ///
    /// May be called again and from several threads at once: each one waits for the end and
    /// gets the same answer. Called by the store itself it does not wait, and the figures are
    /// not final. A store that hangs is waited for.
    pub fn stop(&self) -> Collected {
        if self.check_process().is_err() {
            return Collected::default();
        }
        self.channel.stop();
        if !self.worker_ids.contains(&thread::current().id()) {
            for worker in lock(&self.workers).drain(..) {
                // What the store's panics are was told by the figures already.
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
    /// As [`stop`](Collector::stop).
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a worker does all its life.
fn work(channel: &Channel, store: &dyn MetricStore) {
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

/// Stops `channel` within the cancelling of `token`, without a thread that waits for it.
fn stops_with(
    token: CancellationToken,
    channel: &Arc<Channel>,
) -> Pin<Box<WaitForCancellationFutureOwned>> {
    let mut cancelled = Box::pin(token.cancelled_owned());
    let waker = Waker::from(Arc::new(Stopper(Arc::clone(channel))));
    // Polled once: a token wakes whom it holds when it is cancelled, and never before.
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
                let most = CollectorLimits::MAX_WORKERS;
                write!(f, "a collector cannot work with {wanted} workers; wanted 1 to {most}")
            }
            Self::NoRoom => f.write_str("a channel of length 0 holds no event; wanted at least 1"),
            Self::NoThread(_) => f.write_str("the system gave no thread for a worker"),
            Self::Full { max_queued_events } => write!(
                f,
                "the channel is full, with {max_queued_events} events waiting; try later, wait by \
                 `record`, or raise `max_queued_events`"
            ),
            Self::Stopped => f.write_str("the collector is stopped; start a new one"),
            Self::Forked => f.write_str(
                "this process was forked after the collector was started; start another one in \
                 the child",
            ),
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
