//! The channel from the threads that record events to the workers: bounded, first come first
//! served. No waker runs under the lock, and a waker that panics affects no other sender.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use crate::panic::catch_panic;
use crate::sync::lock;

/// Maximum number of workers of a collector.
pub(super) const MAX_WORKERS: u32 = 1024;

/// The counts of a [`Collector`](super::Collector). After its stop, `accepted` is the sum of `counted` and `failed`.
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
    /// The number of workers is zero or too large: see [`CollectorLimits::workers`](super::CollectorLimits::workers).
    Workers {
        /// The requested number.
        wanted: u32,
    },
    /// The channel has no space for any event.
    NoCapacity,
    /// A worker thread could not be started.
    NoThread(std::io::Error),
    /// The channel is full. Retry later, or wait with [`Collector::record`](super::Collector::record).
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

pub(super) type Key = Cow<'static, str>;

/// Maximum number of events that a worker takes at once.
const MAX_BATCH: usize = 64;
/// Number of waiting senders from which dropped ones are removed.
const WAITING_UNSWEPT: usize = 64;

#[derive(Debug)]
pub(super) struct Channel {
    state: Mutex<State>,
    /// Notified when an event arrives, and on stop.
    more: Condvar,
    max_events: usize,
    workers: usize,
}

#[derive(Debug)]
struct State {
    /// Accepted events; never more than `max_events`.
    events: VecDeque<Key>,
    /// Senders that wait for space; empty unless `events` is full.
    waiting: VecDeque<(Key, Waiter)>,
    /// Number of waiting senders at which dropped ones are removed next.
    sweep_at: usize,
    is_stopped: bool,
    collected: Collected,
}

/// Notifies a sender that its event was accepted; dropping it, that it was rejected.
#[derive(Debug)]
enum Waiter {
    Task(oneshot::Sender<()>),
    Thread(mpsc::SyncSender<()>),
}

/// The outcome of offering an event.
#[must_use]
enum Offered {
    Accepted,
    Stopped,
    Full(Key),
}

impl Channel {
    pub(super) fn new(max_events: usize, workers: usize) -> Self {
        let state = State {
            events: VecDeque::new(),
            waiting: VecDeque::new(),
            sweep_at: WAITING_UNSWEPT,
            is_stopped: false,
            collected: Collected::default(),
        };
        Self { state: Mutex::new(state), more: Condvar::new(), max_events, workers }
    }

    pub(super) fn try_send(&self, key: Key) -> Result<(), CollectError> {
        match self.offer(&mut lock(&self.state), key) {
            Offered::Accepted => Ok(()),
            Offered::Stopped => Err(CollectError::Stopped),
            Offered::Full(_) => Err(CollectError::Full { max_queued_events: self.max_events }),
        }
    }

    pub(super) async fn send(&self, key: Key) -> Result<(), CollectError> {
        let (sender, accepted) = oneshot::channel();
        match self.send_or_wait(key, Waiter::Task(sender))? {
            Sent::Accepted => Ok(()),
            Sent::Waits => accepted.await.map_err(|_| CollectError::Stopped),
        }
    }

    pub(super) fn send_blocking(&self, key: Key) -> Result<(), CollectError> {
        let (sender, accepted) = mpsc::sync_channel(1);
        match self.send_or_wait(key, Waiter::Thread(sender))? {
            Sent::Accepted => Ok(()),
            Sent::Waits => accepted.recv().map_err(|_| CollectError::Stopped),
        }
    }

    fn send_or_wait(&self, key: Key, sender: Waiter) -> Result<Sent, CollectError> {
        let mut state = lock(&self.state);
        match self.offer(&mut state, key) {
            Offered::Accepted => Ok(Sent::Accepted),
            Offered::Stopped => Err(CollectError::Stopped),
            Offered::Full(key) => {
                state.sweep();
                state.waiting.push_back((key, sender));
                Ok(Sent::Waits)
            }
        }
    }

    fn offer(&self, state: &mut State, key: Key) -> Offered {
        if state.is_stopped {
            return Offered::Stopped;
        }
        if state.events.len() >= self.max_events {
            return Offered::Full(key);
        }
        state.accept(key);
        self.more.notify_one();
        Offered::Accepted
    }

    /// Rejects further events and those that wait for space. Accepted events stay.
    pub(super) fn stop(&self) {
        let mut state = lock(&self.state);
        state.is_stopped = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.more.notify_all();
        waiting.into_iter().for_each(|(_, sender)| completion(|| drop(sender)));
    }

    /// Waits for events and takes some into `batch`; records the outcome of the previous batch.
    /// Returns false once the channel is stopped and empty.
    pub(super) fn take(&self, batch: &mut Vec<Key>, previous: BatchDone) -> bool {
        let mut state = lock(&self.state);
        state.collected.counted += previous.counted;
        state.collected.failed += previous.failed;
        let is_idle = |state: &mut State| state.events.is_empty() && !state.is_stopped;
        state = self.more.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        // An equal share for each worker, so that few events are spread over all workers.
        let share = (state.events.len() / self.workers).clamp(1, MAX_BATCH);
        let share = share.min(state.events.len());
        batch.extend(state.events.drain(..share));
        let accepted = state.refill(self.max_events);
        if !state.events.is_empty() {
            self.more.notify_one();
        }
        drop(state);
        accepted.into_iter().for_each(|sender| completion(|| sender.wake()));
        !batch.is_empty()
    }

    pub(super) fn collected(&self) -> Collected {
        lock(&self.state).collected
    }
}

/// Runs a waker of the application; its panics are ignored.
fn completion(wake: impl FnOnce()) {
    let _ = catch_panic(wake);
}

#[must_use]
enum Sent {
    Accepted,
    Waits,
}

/// The outcome of the events of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchDone {
    pub(super) counted: u64,
    pub(super) failed: u64,
}

impl State {
    fn accept(&mut self, key: Key) {
        self.events.push_back(key);
        self.collected.accepted += 1;
    }

    /// Accepts events of waiting senders while there is space; returns the senders to notify.
    fn refill(&mut self, max_events: usize) -> Vec<Waiter> {
        let mut accepted = Vec::new();
        while self.events.len() < max_events
            && let Some((key, sender)) = self.waiting.pop_front()
        {
            if !sender.is_gone() {
                self.accept(key);
                accepted.push(sender);
            }
        }
        accepted
    }

    /// Removes dropped senders, so that at most twice as many are kept as wait.
    fn sweep(&mut self) {
        if self.waiting.len() >= self.sweep_at {
            self.waiting.retain(|(_, sender)| !sender.is_gone());
            self.sweep_at = WAITING_UNSWEPT.max(self.waiting.len() * 2);
        }
    }
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match self {
            Self::Task(sender) => sender.is_closed(),
            Self::Thread(_) => false,
        }
    }

    fn wake(self) {
        // A sender that was dropped just now is counted all the same.
        match self {
            Self::Task(sender) => drop(sender.send(())),
            Self::Thread(sender) => drop(sender.try_send(())),
        }
    }
}

impl fmt::Display for CollectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workers { wanted } => {
                let max = MAX_WORKERS;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};

    fn take(channel: &Channel) -> Vec<Key> {
        let mut batch = Vec::new();
        let _ = channel.take(&mut batch, BatchDone::default());
        batch
    }

    #[test]
    fn longest_waiting_sender_is_served_before_try_send() {
        let channel = Channel::new(1, 1);
        let mut cx = Context::from_waker(Waker::noop());
        let mut sends = ["a", "b", "c"].map(|key| Box::pin(channel.send(key.into())));
        let polled = sends.each_mut().map(|send| send.as_mut().poll(&mut cx).is_ready());
        assert_eq!(polled, [true, false, false]);
        assert_eq!(take(&channel), ["a"]);
        let rejected = channel.try_send("x".into());
        let full = matches!(rejected, Err(CollectError::Full { max_queued_events: 1 }));
        assert!(full, "{rejected:?}");
        assert_eq!(take(&channel), ["b"]);
        // Accepted although the sender was not polled again.
        assert_eq!(channel.collected().accepted, 3);
        assert_eq!(take(&channel), ["c"]);
        assert!(sends[1].as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn dropped_senders_are_neither_accepted_nor_kept() {
        let channel = Channel::new(1, 1);
        let mut cx = Context::from_waker(Waker::noop());
        channel.try_send("a".into()).expect("space");
        for _ in 0..10 * WAITING_UNSWEPT {
            let mut dropped = pin!(channel.send("b".into()));
            assert!(dropped.as_mut().poll(&mut cx).is_pending());
        }
        assert!(lock(&channel.state).waiting.len() <= WAITING_UNSWEPT);
        assert_eq!(take(&channel), ["a"]);
        channel.stop();
        assert!(take(&channel).is_empty());
        assert_eq!(channel.collected().accepted, 1);
    }

    #[test]
    fn panicking_waker_affects_no_other_sender() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                std::panic::resume_unwind(Box::new("on purpose"));
            }
        }
        let waker = Waker::from(Arc::new(Panics));
        let (mut bad, mut good) = (Context::from_waker(&waker), Context::from_waker(Waker::noop()));
        let channel = Channel::new(1, 1);
        channel.try_send("a".into()).expect("space");
        let mut sends = ["b", "c", "d"].map(|key| Box::pin(channel.send(key.into())));
        assert!(sends[0].as_mut().poll(&mut bad).is_pending());
        assert!(sends[1].as_mut().poll(&mut bad).is_pending());
        assert!(sends[2].as_mut().poll(&mut good).is_pending());
        assert_eq!(take(&channel), ["a"]);
        channel.stop();
        assert_eq!(take(&channel), ["b"]);
        let accepted = sends.map(|mut send| match send.as_mut().poll(&mut good) {
            Poll::Ready(outcome) => outcome.is_ok(),
            Poll::Pending => panic!("the send is still pending"),
        });
        assert_eq!(accepted, [true, false, false]);
    }

    #[test]
    fn workers_share_events_equally() {
        let channel = Channel::new(1000, 4);
        (0..1000).for_each(|_| channel.try_send("a".into()).expect("space"));
        assert_eq!(take(&channel).len(), MAX_BATCH);
        let channel = Channel::new(1000, 4);
        (0..12).for_each(|_| channel.try_send("a".into()).expect("space"));
        assert_eq!([3, 2, 1, 1].map(|_| take(&channel).len()), [3, 2, 1, 1]);
    }
}
