//! The streams of a generation: opens them, and keeps those that are open. Each keeps the generation
//! loaded; an unload waits for them, and then ends them.

use std::fmt;
#[cfg(all(unix, feature = "process"))]
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

#[cfg(all(unix, feature = "process"))]
use futures_util::future::{Either, select};
use hotbay_plugin::Payload;
use hotbay_plugin::abi::RawPayload;
use hotbay_plugin::contract::Format;
use hotbay_plugin::contract::internal::OpenFn;

use super::Generation;
use super::lease::{CallArgs, InstanceRef, in_plugin_call};
use crate::boundary::{Instance, OpenStream};
use crate::call::MethodRequest;
#[cfg(all(unix, feature = "process"))]
use crate::call::StreamSlot;
use crate::error::{Error, ErrorKind, bug};
#[cfg(all(unix, feature = "process"))]
use crate::sync::block_on;
use crate::sync::{WaitGroup, WaitGuard, lock};

/// A stream that a call opened.
#[derive(Debug)]
pub(crate) struct Opened {
    // Dropped before the guard, since it uses the plugin.
    pub(crate) source: StreamSource,
    /// The serialization of its items.
    pub(crate) format: Format,
    pub(crate) generation: Arc<Generation>,
    pub(super) _guard: OpenGuard,
}

/// Counts an open stream until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenGuard {
    open: Arc<AtomicU32>,
    _running: WaitGuard,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where the items of a stream come from.
#[derive(Debug)]
pub(crate) enum StreamSource {
    /// An iterator of code in this process, which may block.
    Blocking(OpenStream),
    /// The async runtime of code in this process.
    Polled(OpenStream),
    /// A program.
    #[cfg(all(unix, feature = "process"))]
    Remote(Box<hotbay_process::ItemLines>),
}

impl From<OpenStream> for StreamSource {
    fn from(stream: OpenStream) -> Self {
        if stream.is_polled() { Self::Polled(stream) } else { Self::Blocking(stream) }
    }
}

/// A stream that can be ended.
pub(crate) trait EndStream: Send + Sync {
    /// Ends the stream, since its generation is unloaded.
    fn end_for_unload(self: Arc<Self>);
}

/// The open streams of a generation.
#[derive(Default)]
pub(crate) struct OpenStreams {
    group: Arc<WaitGroup>,
    /// Number of open streams.
    open: Arc<AtomicU32>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    streams: Vec<Weak<dyn EndStream>>,
    is_ending: bool,
}

impl OpenStreams {
    /// Returns whether no stream is open.
    pub(super) fn is_idle(&self) -> bool {
        self.group.is_idle()
    }

    /// Waits until no stream is open, at most until `deadline`; returns whether none is.
    pub(super) fn wait_idle(&self, deadline: Instant) -> bool {
        self.group.wait_idle(deadline)
    }

    /// Ends all streams, and those that are opened later.
    pub(super) fn end_all(&self) {
        let streams = {
            let mut inner = lock(&self.inner);
            inner.is_ending = true;
            std::mem::take(&mut inner.streams)
        };
        for stream in streams.iter().filter_map(Weak::upgrade) {
            stream.end_for_unload();
        }
    }
}

impl Generation {
    /// Lets an unload end an open stream.
    pub(crate) fn register_stream(&self, stream: &Arc<dyn EndStream>) {
        {
            let mut inner = lock(&self.streams.inner);
            if !inner.is_ending {
                // Those that have ended are removed when the list would grow.
                if inner.streams.len() == inner.streams.capacity() {
                    inner.streams.retain(|stream| stream.strong_count() > 0);
                }
                return inner.streams.push(Arc::downgrade(stream));
            }
        }
        Arc::clone(stream).end_for_unload();
    }

    /// Counts a stream that is about to be opened; fails if too many are open.
    fn begin_stream(&self) -> Result<OpenGuard, Error> {
        let (open, max) = (&self.streams.open, self.policy.max_open_streams);
        let more = |open| (open < max).then_some(open + 1);
        if open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            let message = format!(
                "was not called: its limit of open streams is reached (`limits.open_streams` is \
                 {max})"
            );
            let error = Error::new(ErrorKind::Overloaded, message).with_hint(
                "read streams to their ends or drop them, or raise `limits.open_streams` or the \
                 host's `max_open_streams`",
            );
            return Err(error.of(&self.name).in_generation(self.id));
        }
        Ok(OpenGuard { open: Arc::clone(open), _running: self.streams.group.start() })
    }

    /// Counts a request of a stream's items until the plugin has answered it.
    pub(crate) fn begin_stream_request(&self) -> WaitGuard {
        self.streams.group.start()
    }
}

impl InstanceRef {
    /// Opens the stream of a method of a plugin in this process, for the slot of the request.
    #[cold]
    pub(super) fn open_stream(
        &self,
        instance: &Instance,
        (open, format): (OpenFn, Format),
        method: &MethodRequest<'_>,
        args: CallArgs<'_>,
    ) -> Result<(), Error> {
        let Some(slot) = &method.stream else { return Err(bug!("a stream has no slot")) };
        let bytes = method.encode(format).map_err(|error| self.generation().not_encoded(error))?;
        let input = RawPayload::new(Payload::bytes(&bytes));
        let guard = self.generation().begin_stream()?;
        let of_items = self.generation().streams.group.start();
        self.run_in_process(args, |context| {
            let stream = in_plugin_call(|| {
                OpenStream::open(of_items, instance, open, context, format, &input)
            });
            let fail = |failure| self.generation().error_from_by(args.request.deadline(), failure);
            let source = StreamSource::from(stream.map_err(fail)?);
            let generation = Arc::clone(self.generation());
            slot.put(Opened { source, format, generation, _guard: guard });
            Ok(())
        })
    }
}

#[cfg(all(unix, feature = "process"))]
impl InstanceRef {
    /// Opens the stream of a method of a process; dropping the future cancels the call.
    pub(super) async fn open_remote_stream(
        &self,
        process: &hotbay_process::Process,
        slot: &StreamSlot,
        args: CallArgs<'_>,
    ) -> Result<(), Error> {
        let CallArgs { request, state, call_id } = args;
        let guard = self.generation().begin_stream()?;
        let message = self.message(request)?;
        let call = request.to_process_call(call_id, message.as_ref());
        let entered = self.generation().enter(state)?;
        let opened = process.open_stream(&call).await;
        drop(entered);
        let fail = |failure: hotbay_process::Failure| {
            self.generation().error_from_by(request.deadline(), failure.into())
        };
        let source = StreamSource::Remote(Box::new(opened.map_err(fail)?));
        let generation = Arc::clone(self.generation());
        slot.put(Opened { source, format: Format::Json, generation, _guard: guard });
        Ok(())
    }

    /// Opens a stream like [`open_remote_stream`](Self::open_remote_stream), and waits on this
    /// thread.
    pub(super) fn wait_for_stream(
        &self,
        process: &hotbay_process::Process,
        slot: &StreamSlot,
        args: CallArgs<'_>,
    ) -> Result<(), Error> {
        let ended = async {
            match args.state {
                Some(state) => state.ended().await,
                None => std::future::pending().await,
            }
        };
        let cancelled = async {
            match args.request.cancellation_token() {
                Some(token) => {
                    let _ = select(pin!(ended), pin!(token.cancelled())).await;
                }
                None => ended.await,
            }
        };
        let opening = pin!(self.open_remote_stream(process, slot, args));
        match block_on(pin!(select(opening, pin!(cancelled)))) {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => {
                let message = "was called, but the caller cancelled the call";
                let error = Error::new(ErrorKind::Cancelled, message).of(&self.generation().name);
                Err(error.in_generation(self.generation().id))
            }
        }
    }
}

impl fmt::Debug for OpenStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStreams").field("is_idle", &self.is_idle()).finish_non_exhaustive()
    }
}
