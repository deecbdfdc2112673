//! Streams of methods as their callers read them: a buffer of items that the plugin has made, and the
//! producer that makes more of them, up to the window.
//!
//! An iterator of the plugin runs on the caller's thread, one item at a time, if the caller blocks;
//! otherwise on a thread of the plugin, until the window is full. Between two items, nothing of the
//! plugin runs.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

#[cfg(all(unix, feature = "process"))]
use futures_util::future::{Either, select};
use hotbay_plugin::TraceContext;
use hotbay_plugin::abi::{Bounds, RawContext};
use hotbay_plugin::contract::internal::{ItemSource, batch};
use hotbay_plugin::contract::{CallError, Format};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Inner;
use crate::boundary::stream::Requested;
use crate::call::{Failure, Request, StreamSlot};
use crate::error::{Error, ErrorKind};
use crate::generation::{
    EndStream, Generation, MakeItems, Opened, StreamSource, Turn, next_call_id,
};
use crate::panic::drop_panic;
use crate::slot::{Admission, CallScope};
use crate::sync::{block_on, lock};
use crate::worker::TimerEntry;

/// Number of items that a plugin makes in advance.
const DEFAULT_WINDOW: u32 = 32;

/// The largest window.
const MAX_WINDOW: u32 = 1 << 16;

/// Bytes of items from which a plugin makes no more, though the window is not full.
const MAX_BUFFERED_BYTES: usize = 1 << 20;

/// Number of items after which a thread turns to another stream that waits for one.
const ITEMS_PER_TURN: usize = 32;

/// The thread on which a caller that blocks lets an iterator of the plugin run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunsOn {
    CallersThread,
    Workers,
}

/// A stream that a caller reads. Dropping it ends the stream.
pub(super) struct PluginStream {
    core: Arc<Core>,
    /// Resolves when the token of the call is cancelled.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    runs_on: RunsOn,
}

/// What the caller, the producer, the timer and an unload share.
struct Core {
    inner: Arc<Inner>,
    generation: Arc<Generation>,
    call_id: u64,
    trace: Option<TraceContext>,
    deadline: Option<Instant>,
    token: Option<CancellationToken>,
    /// Cancelled when the caller wants no more items.
    ended: CancellationToken,
    state: Mutex<State>,
}

struct State {
    items: VecDeque<(Format, Vec<u8>)>,
    /// Total bytes of the items.
    bytes: usize,
    /// What follows the items; `None` while more may be made.
    end: Option<End>,
    producer: Producer,
    waker: Option<Waker>,
    window: u32,
    /// Whether the plugin has made an item.
    has_made: bool,
    /// Whether it stands in the queue of the threads, though perhaps no longer `Waiting`.
    is_queued: bool,
}

enum End {
    /// The last item was made.
    Finished,
    /// The error that the caller gets.
    Failed(CallError),
}

/// What makes items.
enum Producer {
    /// Nothing now.
    Idle(Opened),
    /// A thread, once one is free.
    Waiting(Opened),
    /// A thread, which returns the stream.
    Busy,
    /// The plugin's runtime, which answers a request. The answer is the library's memory, so it is
    /// dropped before the stream, which keeps the library mapped.
    Requested(Requested, Opened),
    Gone,
}

/// Opens the stream of a method: `call` makes the call of the request.
pub(super) fn open_stream(
    inner: &Arc<Inner>,
    mut request: Request<'static>,
    runs_on: RunsOn,
    call: impl FnOnce(Request<'static>) -> Result<(), Error>,
) -> Result<PluginStream, Error> {
    let slot = StreamSlot::default();
    request.set_stream_slot(slot.clone());
    if runs_on == RunsOn::Workers
        && let Some(policy) = inner.slot.load_policy().as_ref()
        && policy.needs_clock(request.deadline())
    {
        // That of the manifest, or of the host, too, as for other pooled calls.
        request.set_deadline(policy.deadline(Instant::now(), request.deadline()));
    }
    let (trace, deadline) = (request.trace().copied(), request.deadline());
    let token = request.cancellation_token().cloned();
    call(request)?;
    let Some(opened) = slot.take::<Opened>() else {
        let message = "was called, but the call was answered without a stream";
        return Err(Error::new(ErrorKind::InvalidOutput, message).of(&inner.slot.name));
    };
    let generation = Arc::clone(&opened.generation);
    let cancelled = token.clone().map(|token| Box::pin(token.cancelled_owned()));
    let state = State {
        items: VecDeque::new(),
        bytes: 0,
        end: None,
        producer: Producer::Idle(opened),
        waker: None,
        window: DEFAULT_WINDOW,
        has_made: false,
        is_queued: false,
    };
    let core = Arc::new(Core {
        inner: Arc::clone(inner),
        generation,
        call_id: next_call_id(),
        trace,
        deadline,
        token,
        ended: CancellationToken::new(),
        state: Mutex::new(state),
    });
    let ends: Arc<dyn EndStream> = Arc::<Core>::clone(&core);
    core.generation.register_stream(&ends);
    if let Some(deadline) = deadline {
        let entry: Arc<dyn TimerEntry> = Arc::<Core>::clone(&core);
        inner.slot.schedule(deadline, &entry);
    }
    Ok(PluginStream { core, cancelled, runs_on })
}

impl ItemSource for PluginStream {
    fn next(&mut self, item: &mut Vec<u8>) -> Option<Result<Format, CallError>> {
        if self.runs_on == RunsOn::CallersThread
            && let Some(made) = self.core.make_here(item)
        {
            return made;
        }
        block_on(pin!(poll_fn(|cx| self.poll_next(cx, item))))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        item: &mut Vec<u8>,
    ) -> Poll<Option<Result<Format, CallError>>> {
        // First, since the token has locks.
        if self.core.inner.check_process().is_err() {
            return Poll::Ready(Some(Err(self.core.inner.forked().into())));
        }
        if let Some(cancelled) = &mut self.cancelled
            && cancelled.as_mut().poll(cx).is_ready()
        {
            self.cancelled = None;
            self.core.end(Some(self.core.cancelled_error()), Release::OnThread);
        }
        Core::poll_item(&self.core, cx, item)
    }

    fn set_window(&mut self, items: u32) {
        if self.core.inner.process.is_current() {
            self.core.lock().window = items.min(MAX_WINDOW);
        }
    }
}

/// Where the plugin's stream is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Release {
    Here,
    OnThread,
}

impl Drop for PluginStream {
    fn drop(&mut self) {
        if !self.core.inner.process.is_current() {
            // The child of a fork must take no lock.
            std::mem::forget(self.cancelled.take());
            return std::mem::forget(Arc::clone(&self.core));
        }
        let release = match self.runs_on {
            RunsOn::CallersThread => Release::Here,
            RunsOn::Workers => Release::OnThread,
        };
        self.core.end(None, release);
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Ends the stream, unless its last item was made. Items that were made are dropped; `error`
    /// follows instead.
    fn end(&self, error: Option<Error>, release: Release) {
        self.ended.cancel();
        let mut timeout = error
            .as_ref()
            .filter(|error| error.kind() == ErrorKind::DeadlineExceeded)
            .map(Error::cloned);
        let (producer, waker, items, is_unanswered) = {
            let mut state = self.lock();
            let items = match (&state.end, error) {
                // The caller reads what is left.
                (Some(_), Some(_)) => {
                    timeout = None;
                    VecDeque::new()
                }
                (_, error) => {
                    state.end =
                        Some(error.map_or(End::Finished, |error| End::Failed(error.into())));
                    state.bytes = 0;
                    std::mem::take(&mut state.items)
                }
            };
            let is_making = matches!(state.producer, Producer::Busy | Producer::Requested(..));
            let is_unanswered = is_making && !state.has_made;
            let producer = match &state.producer {
                // Its thread notices the end.
                Producer::Busy => Producer::Gone,
                _ => std::mem::replace(&mut state.producer, Producer::Gone),
            };
            (producer, state.waker.take(), items, is_unanswered)
        };
        drop(items);
        if let Some(error) = timeout {
            self.count_timeout(&error, is_unanswered);
        }
        match (&producer, release) {
            (Producer::Busy | Producer::Gone, _) | (_, Release::Here) => drop(producer),
            (_, Release::OnThread) => self.drop_on_thread(producer),
        }
        wake(waker);
    }

    /// Drops a stream on a thread of the plugin.
    fn drop_on_thread(&self, producer: Producer) {
        // Without a thread it is dropped here.
        let _ = self.generation.workers.spawn(move || drop(producer));
    }

    /// Makes the next item on this thread. `None` if none can be made here.
    fn make_here(&self, item: &mut Vec<u8>) -> Option<Option<Result<Format, CallError>>> {
        if self.inner.check_process().is_err() {
            return Some(Some(Err(self.inner.forked().into())));
        }
        if let Err(error) = self.check_bounds() {
            self.end(Some(error), Release::Here);
        }
        let mut opened = {
            let mut state = self.lock();
            if !state.items.is_empty() {
                return None;
            }
            match std::mem::replace(&mut state.producer, Producer::Busy) {
                // All threads may be busy forever, so it does not wait for one.
                Producer::Idle(opened) | Producer::Waiting(opened)
                    if matches!(opened.source, StreamSource::Blocking(_)) =>
                {
                    opened
                }
                other => {
                    state.producer = other;
                    return None;
                }
            }
        };
        let made = self.make(&mut opened, item);
        let format = opened.format;
        let mut state = self.lock();
        match (made, &state.end) {
            // It was ended meanwhile.
            (_, Some(_)) => {
                state.producer = Producer::Gone;
                drop(state);
                drop(opened);
                item.clear();
                None
            }
            (Ok(true), None) => {
                state.producer = Producer::Idle(opened);
                state.has_made = true;
                Some(Some(Ok(format)))
            }
            (last, None) => {
                state.producer = Producer::Gone;
                state.end = Some(End::Finished);
                drop(state);
                drop(opened);
                Some(last.err().map(|error| Err(error.into())))
            }
        }
    }

    /// Makes an item of an iterator on this thread; returns whether there was one.
    fn make(&self, opened: &mut Opened, item: &mut Vec<u8>) -> Result<bool, Error> {
        let StreamSource::Blocking(stream) = &mut opened.source else { return Ok(false) };
        let context = RawContext::new(self.call_id).with_trace(self.trace.as_ref());
        let context = context.with_bounds(self);
        let made = stream.next(&context, item).map_err(|failure| self.error_of(failure))?;
        if made {
            self.check_item(item)?;
        }
        Ok(made)
    }

    /// Rejects an item that is too large.
    fn check_item(&self, item: &[u8]) -> Result<(), Error> {
        if item.len() as u64 <= self.generation.limits.max_output_bytes {
            return Ok(());
        }
        let error = self.generation.output_too_large(item.len());
        self.record_error(&error);
        Err(error)
    }

    /// Converts a failure of the plugin, and records it.
    #[cold]
    fn error_of(&self, failure: Failure) -> Error {
        let error = self.generation.error_from_by(self.deadline, failure);
        self.record_error(&error);
        error
    }

    fn record_error(&self, error: &Error) {
        // A caller that stopped the plugin caused the error itself.
        if self.ended.is_cancelled() && error.kind() != ErrorKind::Panicked {
            return;
        }
        self.record(error);
    }

    /// Counts that the deadline passed. It is a fault of the plugin only if the first item was
    /// requested and not made, since a stream may be endless, and its caller slow.
    #[cold]
    fn count_timeout(&self, error: &Error, is_unanswered: bool) {
        if is_unanswered {
            self.record(error);
        } else {
            self.inner.slot.counters.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn record(&self, error: &Error) {
        let slot = &self.inner.slot;
        let request = Request::default();
        let scope = CallScope::inline(&request, None, self.call_id);
        slot.counters.count_error(&scope, error);
        slot.record_outcome(Admission::Normal, &scope, &Err(error.cloned()));
    }

    /// Fails once the deadline has passed, or the token is cancelled.
    fn check_bounds(&self) -> Result<(), Error> {
        if self.token.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return Err(self.cancelled_error());
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(self.deadline_error()),
            _ => Ok(()),
        }
    }

    fn cancelled_error(&self) -> Error {
        self.inner.slot.cancelled_error().in_generation(self.generation.id)
    }

    fn deadline_error(&self) -> Error {
        let message = "was called, but the deadline passed before the end of its stream";
        let error = Error::new(ErrorKind::DeadlineExceeded, message).of(&self.inner.slot.name);
        error.in_generation(self.generation.id)
    }

    fn poll_item(
        this: &Arc<Self>,
        cx: &mut Context<'_>,
        item: &mut Vec<u8>,
    ) -> Poll<Option<Result<Format, CallError>>> {
        // The timer may not have fired yet.
        if let Err(error) = this.check_bounds() {
            this.end(Some(error), Release::OnThread);
        }
        loop {
            let mut state = this.lock();
            if let Some((format, bytes)) = state.items.pop_front() {
                state.bytes -= bytes.len();
                Self::refill(this, state);
                *item = bytes;
                return Poll::Ready(Some(Ok(format)));
            }
            match state.end.take() {
                None => {}
                Some(End::Finished) => {
                    state.end = Some(End::Finished);
                    return Poll::Ready(None);
                }
                Some(End::Failed(error)) => {
                    state.end = Some(End::Finished);
                    return Poll::Ready(Some(Err(error)));
                }
            }
            state.waker = Some(cx.waker().clone());
            match &mut state.producer {
                Producer::Idle(_) => Self::refill(this, state),
                Producer::Requested(requested, _) => match Pin::new(requested).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(answer) => {
                        // The sender is dropped only with an answer.
                        let answer = answer.unwrap_or(Err(Failure::Cancelled));
                        this.take_batch(state, answer);
                    }
                },
                Producer::Waiting(_) | Producer::Busy | Producer::Gone => return Poll::Pending,
            }
        }
    }

    /// Lets the plugin make items if at least half of the window is free.
    fn refill(this: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let credits = state.credits();
        if credits < state.window.div_ceil(2) || state.end.is_some() {
            return;
        }
        let mut opened = match std::mem::replace(&mut state.producer, Producer::Busy) {
            Producer::Idle(opened) => opened,
            other => return state.producer = other,
        };
        if matches!(opened.source, StreamSource::Blocking(_)) {
            state.producer = Producer::Waiting(opened);
            let was_queued = std::mem::replace(&mut state.is_queued, true);
            drop(state);
            if was_queued {
                return;
            }
            let stream: Weak<dyn MakeItems> = Arc::<Self>::downgrade(this);
            let Generation { stream_threads, workers, .. } = &*this.generation;
            if let Err(error) = stream_threads.make_items(workers, stream) {
                let message = "was called, but no thread for its stream can be started";
                let error = Error::new(ErrorKind::Overloaded, message).caused_by(error);
                this.end(Some(error.of(&this.inner.slot.name)), Release::OnThread);
            }
            return;
        }
        drop(state);
        #[cfg(all(unix, feature = "process"))]
        if let StreamSource::Remote(lines) = &opened.source {
            let runtime = lines.runtime().clone();
            drop(runtime.spawn(Arc::clone(this).read_program(opened)));
            return;
        }
        if let StreamSource::Polled(stream) = &mut opened.source {
            let requested = stream.request(credits, this.generation.begin_stream_request());
            let mut state = this.lock();
            if state.end.is_none() {
                state.producer = Producer::Requested(requested, opened);
            } else {
                state.producer = Producer::Gone;
                drop(state);
                drop(Producer::Requested(requested, opened));
            }
        }
    }

    /// Reads items of a program until the window is full.
    #[cfg(all(unix, feature = "process"))]
    async fn read_program(self: Arc<Self>, mut opened: Opened) {
        loop {
            {
                let mut state = self.lock();
                if state.end.is_some() {
                    break;
                }
                if state.credits() == 0 {
                    return state.producer = Producer::Idle(opened);
                }
            }
            let StreamSource::Remote(lines) = &mut opened.source else { break };
            let read = {
                let (read, ended) = (pin!(lines.next()), pin!(self.ended.cancelled()));
                match select(read, ended).await {
                    Either::Left((read, _)) => read,
                    Either::Right(_) => break,
                }
            };
            let item = read.map_err(|failure| self.error_of(failure.into()));
            let item = item.and_then(|item| match item {
                Some(item) => self.check_item(&item).map(|()| Some(item)),
                None => Ok(None),
            });
            if self.add(opened.format, item).is_last() {
                break;
            }
        }
        drop(opened);
        self.lock().producer = Producer::Gone;
    }

    /// Adds an item, or the end of the stream, and wakes the caller.
    fn add(&self, format: Format, item: Result<Option<Vec<u8>>, Error>) -> Added {
        let added = if matches!(item, Ok(Some(_))) { Added::Item } else { Added::End };
        let waker = {
            let mut state = self.lock();
            if state.end.is_none() {
                match item {
                    Ok(Some(item)) => state.push(format, item),
                    Ok(None) => state.end = Some(End::Finished),
                    Err(error) => state.end = Some(End::Failed(error.into())),
                }
            }
            state.waker.take()
        };
        wake(waker);
        added
    }

    /// Takes the answer to a request.
    fn take_batch(
        &self,
        mut state: MutexGuard<'_, State>,
        answer: Result<hotbay_plugin::Output, Failure>,
    ) {
        let opened = match std::mem::replace(&mut state.producer, Producer::Busy) {
            Producer::Requested(_, opened) => opened,
            other => return state.producer = other,
        };
        drop(state);
        let (is_last, items, error) = match answer {
            Err(failure) => (true, Vec::new(), Some(self.error_of(failure))),
            Ok(output) => match batch::parse(output.as_bytes()) {
                Some((is_last, found)) => {
                    let mut items = Vec::with_capacity(found.len());
                    let mut error = None;
                    for item in found {
                        if let Err(too_large) = self.check_item(item) {
                            error = Some(too_large);
                            break;
                        }
                        items.push((opened.format, item.to_vec()));
                    }
                    (is_last || error.is_some(), items, error)
                }
                None => {
                    let message = "returned an invalid batch of items";
                    let error = Error::new(ErrorKind::Incompatible, message);
                    (true, Vec::new(), Some(error.of(&self.inner.slot.name)))
                }
            },
        };
        let mut state = self.lock();
        if state.end.is_none() {
            items.into_iter().for_each(|(format, item)| state.push(format, item));
            if is_last {
                let end = error.map_or(End::Finished, |error| End::Failed(error.into()));
                state.end = Some(end);
            }
        }
        if state.end.is_none() {
            state.producer = Producer::Idle(opened);
        } else {
            state.producer = Producer::Gone;
            drop(state);
            drop(opened);
        }
    }
}

impl State {
    fn push(&mut self, format: Format, item: Vec<u8>) {
        self.has_made = true;
        self.bytes += item.len();
        self.items.push_back((format, item));
    }

    /// Returns the number of items that the plugin may make now.
    fn credits(&self) -> u32 {
        if self.bytes >= MAX_BUFFERED_BYTES {
            return 0;
        }
        let made = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.window.saturating_sub(made)
    }
}

/// What was added to the buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Added {
    Item,
    End,
}

impl Added {
    fn is_last(self) -> bool {
        self == Self::End
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        // A waker of the application may panic.
        let _ = drop_panic(|| waker.wake());
    }
}

impl MakeItems for Core {
    fn make_items(self: Arc<Self>) -> Turn {
        let mut opened = {
            let mut state = self.lock();
            state.is_queued = false;
            match std::mem::replace(&mut state.producer, Producer::Busy) {
                Producer::Waiting(opened) => opened,
                other => {
                    state.producer = other;
                    return Turn::Done;
                }
            }
        };
        for made_now in 0.. {
            {
                let mut state = self.lock();
                if state.end.is_some() {
                    break;
                }
                if state.credits() == 0 {
                    state.producer = Producer::Idle(opened);
                    return Turn::Done;
                }
                if made_now == ITEMS_PER_TURN {
                    state.producer = Producer::Waiting(opened);
                    state.is_queued = true;
                    return Turn::Again;
                }
            }
            let mut item = Vec::new();
            let made = self.make(&mut opened, &mut item);
            if self.add(opened.format, made.map(|made| made.then_some(item))).is_last() {
                break;
            }
        }
        drop(opened);
        self.lock().producer = Producer::Gone;
        Turn::Done
    }
}

impl EndStream for Core {
    fn end_for_unload(self: Arc<Self>) {
        let message = "was unloaded before the end of its stream: the stream exceeded the host's \
                       `drain_timeout`";
        let error = Error::new(ErrorKind::Retired, message).with_hint("call again");
        let error = error.of(&self.inner.slot.name).in_generation(self.generation.id);
        self.end(Some(error), Release::OnThread);
    }
}

impl TimerEntry for Core {
    fn fire_due(self: Arc<Self>, now: Instant) -> Option<Instant> {
        let deadline = self.deadline?;
        if deadline > now {
            return Some(deadline);
        }
        self.end(Some(self.deadline_error()), Release::OnThread);
        None
    }
}

/// The deadline and the cancellation, as the plugin's iterator can query them.
impl Bounds for Core {
    fn is_cancelled(&self) -> bool {
        self.ended.is_cancelled() || self.check_bounds().is_err()
    }

    fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }
}

impl fmt::Debug for PluginStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginStream")
            .field("plugin", &self.core.inner.slot.name)
            .field("generation", &self.core.generation.id)
            .finish_non_exhaustive()
    }
}
