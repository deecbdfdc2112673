//! The open streams of a generation. Each keeps it loaded; an unload waits for them, and then ends
//! them.

use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use hotbay_plugin::contract::Format;

use super::Generation;
use crate::boundary::OpenStream;
use crate::sync::{WaitGroup, WaitGuard, lock};

/// A stream that a call opened.
#[derive(Debug)]
pub(crate) struct Opened {
    // Dropped before the guard, since it uses the plugin.
    pub(crate) source: StreamSource,
    /// The serialization of its items.
    pub(crate) format: Format,
    pub(crate) generation: Arc<Generation>,
    pub(super) _guard: WaitGuard,
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
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    streams: Vec<Weak<dyn EndStream>>,
    is_ending: bool,
}

impl OpenStreams {
    /// Counts a stream that is about to be opened.
    pub(super) fn start(&self) -> WaitGuard {
        self.group.start()
    }

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

    /// Counts a request of a stream's items until the plugin has answered it.
    pub(crate) fn begin_stream_request(&self) -> WaitGuard {
        self.streams.start()
    }
}

impl fmt::Debug for OpenStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStreams").field("is_idle", &self.is_idle()).finish_non_exhaustive()
    }
}
