//! Streams of items that a method returns: made of an iterator or an async stream in the plugin, and
//! read one by one by the caller, who decides how many items the plugin may make in advance.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::codec::Format;
use super::data::Data;
use super::error::{CallError, CallErrorKind};
use super::method::{Failed, result_of};
use crate::PluginError;
use crate::context::RawContext;
#[cfg(all(unix, feature = "serve"))]
use crate::context::in_context;
use crate::payload::Output;

/// The items that a method of a contract returns one after another.
///
/// A plugin makes it with [`from_items`](Self::from_items), [`from_results`](Self::from_results) or,
/// with the feature `tokio`, `from_stream`. A caller reads it as an [`Iterator`], which blocks, or as a
/// `futures_core::Stream`, which any executor may poll.
///
/// ```
/// use hotbay_plugin::contract::{CallError, Stream};
///
/// #[hotbay_plugin::contract(name = "numbers", version = "1.0")]
/// pub trait Numbers {
///     fn count(&self, from: u64) -> Result<Stream<u64>, CallError>;
/// }
///
/// struct Counter;
///
/// impl Numbers for Counter {
///     fn count(&self, from: u64) -> Result<Stream<u64>, CallError> {
///         Ok(Stream::from_items(from..)) // Without end: the caller takes what it needs.
///     }
/// }
///
/// let first: Result<Vec<_>, _> = Counter.count(7)?.take(3).collect();
/// assert_eq!(first?, [7, 8, 9]);
/// # Ok::<(), CallError>(())
/// ```
///
/// `Iterator` and `StreamExt` of `futures` both have a method `next`. In async code, use `try_next` of
/// `TryStreamExt`.
///
/// # How many items the plugin makes
///
/// The plugin makes an item only after the caller has granted it. If the caller iterates on its own
/// thread, each `next` makes one item there, with the plugin's iterator. Otherwise the plugin makes
/// up to a [window](Self::with_window) of items in advance. A caller that stops reading stops the
/// plugin.
///
/// # The end
///
/// After the last item, and after the first error, the stream returns `None`. An error of the plugin,
/// a panic, the deadline, a cancellation and an unload arrive as the last item; items that the plugin
/// made before its own error arrive first. Dropping the stream drops the plugin's iterator.
/// The deadline and the token of the call apply until then.
///
/// An open stream does not hold up a reload: new calls go to the new build at once. The old build is
/// unloaded when its streams have ended, at the latest after the host's `drain_timeout`. Then they
/// end with `Unavailable`. With the handover `stop-first` the old build is unloaded first, so the
/// reload waits for its streams as long. With `pause`, the old build may make items of open streams
/// while its state is handed over.
#[must_use = "a stream that is not read is cancelled"]
pub struct Stream<T> {
    source: Source<T>,
}

/// An iterator of the plugin.
type Results<T> = dyn Iterator<Item = Result<T, PluginError>> + Send;

enum Source<T> {
    /// Made in this library or program.
    Iterator(Box<Results<T>>),
    /// Made in this library or program, and polled on the plugin's runtime.
    #[cfg(all(unix, feature = "tokio"))]
    Polled(PolledResults<T>),
    /// Read from a plugin.
    Plugin(Box<dyn ItemSource>),
    Finished,
}

#[cfg(all(unix, feature = "tokio"))]
type PolledResults<T> =
    Pin<Box<dyn futures_core::Stream<Item = Result<T, PluginError>> + Send + 'static>>;

/// A stream of a plugin, as its caller reads it: serialized items.
#[doc(hidden)]
pub trait ItemSource: Send {
    /// Waits for the next item, and writes it into `item`, which is empty. Returns its format; `None`
    /// after the last one.
    fn next(&mut self, item: &mut Vec<u8>) -> Option<Result<Format, CallError>>;

    /// Polls for the next item, like [`next`](Self::next).
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        item: &mut Vec<u8>,
    ) -> Poll<Option<Result<Format, CallError>>>;

    /// Sets the number of items that the plugin may make in advance.
    fn set_window(&mut self, items: u32);
}

impl<T: 'static> Stream<T> {
    /// Creates a stream of the items of an iterator.
    pub fn from_items<I>(items: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        Self { source: Source::Iterator(Box::new(items.into_iter().map(Ok))) }
    }

    /// Creates a stream of the results of an iterator. The first error ends it.
    ///
    /// ```
    /// use hotbay_plugin::PluginError;
    /// use hotbay_plugin::contract::Stream;
    ///
    /// let lines = ["1", "2", "x", "3"];
    /// let invalid = |_| PluginError::new(422, "invalid number");
    /// let parse = move |line: &str| line.parse().map_err(invalid);
    /// let mut numbers = Stream::<u32>::from_results(lines.into_iter().map(parse));
    /// assert_eq!(numbers.next().unwrap().unwrap(), 1);
    /// assert_eq!(numbers.next().unwrap().unwrap(), 2);
    /// let error = numbers.next().unwrap().unwrap_err();
    /// assert_eq!(error.plugin_error().unwrap().code(), 422);
    /// assert!(numbers.next().is_none());
    /// ```
    pub fn from_results<I, E>(results: I) -> Self
    where
        I: IntoIterator<Item = Result<T, E>>,
        I::IntoIter: Send + 'static,
        E: Into<PluginError>,
    {
        let results = results.into_iter().map(|result| result.map_err(Into::into));
        Self { source: Source::Iterator(Box::new(results)) }
    }

    /// Creates a stream of the results of an async stream, which is polled on the plugin's tokio
    /// runtime (feature `tokio`, Unix only). The first error ends it.
    #[cfg(all(unix, feature = "tokio"))]
    pub fn from_stream<S, E>(stream: S) -> Self
    where
        S: futures_core::Stream<Item = Result<T, E>> + Send + 'static,
        E: Into<PluginError>,
    {
        struct Converted<S>(Pin<Box<S>>);

        impl<T, E: Into<PluginError>, S> futures_core::Stream for Converted<S>
        where
            S: futures_core::Stream<Item = Result<T, E>>,
        {
            type Item = Result<T, PluginError>;

            fn poll_next(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Self::Item>> {
                let polled = self.0.as_mut().poll_next(cx);
                polled.map(|item| item.map(|result| result.map_err(Into::into)))
            }
        }

        Self { source: Source::Polled(Box::pin(Converted(Box::pin(stream)))) }
    }

    /// Returns a stream whose plugin makes at most `items` items that the caller has not read: at least
    /// 1, at most 65,536, and 32 by default. Once a host holds 1 MiB of them, it requests no more. For
    /// a stream whose iterator runs on the caller's thread, and one that was made here, this changes
    /// nothing.
    pub fn with_window(mut self, items: u32) -> Self {
        if let Source::Plugin(source) = &mut self.source {
            source.set_window(items.max(1));
        }
        self
    }

    /// Creates a stream that reads from a plugin.
    #[doc(hidden)]
    pub fn of_source(source: Box<dyn ItemSource>) -> Self {
        Self { source: Source::Plugin(source) }
    }
}

impl<T: Data> Stream<T> {
    /// Polls for the next item of a stream that was not made of an iterator.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, CallError>>> {
        match &mut self.source {
            Source::Iterator(items) => Poll::Ready(items.next().map(of_plugin)),
            #[cfg(all(unix, feature = "tokio"))]
            Source::Polled(stream) => stream.as_mut().poll_next(cx).map(|item| item.map(of_plugin)),
            Source::Plugin(source) => {
                let mut bytes = Vec::new();
                let item = source.poll_next(cx, &mut bytes);
                item.map(|item| item.map(|format| decode(format?, &bytes)))
            }
            Source::Finished => Poll::Ready(None),
        }
    }

    /// Drops the source after the last item.
    fn finish<E>(&mut self, item: &Option<Result<T, E>>) {
        if !matches!(item, Some(Ok(_))) {
            self.source = Source::Finished;
        }
    }

    /// Returns the items serialized, for a host.
    pub(super) fn into_items(self, format: Format) -> Items {
        match self.source {
            #[cfg(all(unix, feature = "tokio"))]
            Source::Polled(mut stream) => Items::Polled(Box::new(move |cx| {
                let item = stream.as_mut().poll_next(cx);
                item.map(|item| item.map(|item| result_of(format, item)))
            })),
            source => {
                let mut stream = Self { source };
                Items::Blocking(Box::new(move || {
                    let item = stream.next()?;
                    Some(result_of(format, item.map_err(PluginError::from)))
                }))
            }
        }
    }
}

impl<T: Data> Iterator for Stream<T> {
    type Item = Result<T, CallError>;

    /// Waits for the next item.
    fn next(&mut self) -> Option<Self::Item> {
        let item = match &mut self.source {
            Source::Plugin(source) => {
                let mut bytes = Vec::new();
                source.next(&mut bytes).map(|format| decode(format?, &bytes))
            }
            Source::Iterator(items) => items.next().map(of_plugin),
            #[cfg(all(unix, feature = "tokio"))]
            Source::Polled(_) => wait(|cx| self.poll_item(cx)),
            Source::Finished => None,
        };
        self.finish(&item);
        item
    }
}

impl<T: Data> futures_core::Stream for Stream<T> {
    type Item = Result<T, CallError>;

    /// Polls for the next item. An iterator of a plugin never makes items on the thread that polls,
    /// though it may be dropped there; one that was made in this library or program runs there.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = this.poll_item(cx);
        if let Poll::Ready(item) = &polled {
            this.finish(item);
        }
        polled
    }
}

// No value of the type is pinned.
impl<T> Unpin for Stream<T> {}

impl<T> fmt::Debug for Stream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Iterator(_) => "iterator",
            #[cfg(all(unix, feature = "tokio"))]
            Source::Polled(_) => "stream",
            Source::Plugin(_) => "plugin",
            Source::Finished => "finished",
        };
        f.debug_struct("Stream").field("source", &source).finish()
    }
}

fn of_plugin<T>(item: Result<T, PluginError>) -> Result<T, CallError> {
    item.map_err(CallError::from)
}

fn decode<T: Data>(format: Format, item: &[u8]) -> Result<T, CallError> {
    format.decode(item).map_err(|error| {
        let message = "an item of the stream does not match its type";
        CallError::new(CallErrorKind::InvalidOutput, message).with_source(error)
    })
}

/// Blocks until `poll` is ready.
#[cfg(all(unix, feature = "tokio"))]
fn wait<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    use std::sync::Arc;
    use std::task::{Wake, Waker};
    use std::thread::{self, Thread};

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

/// A serialized item, or the part that failed.
pub type ItemResult = Result<Output, (Failed, PluginError)>;

/// The items of a plugin's stream, serialized. Nothing follows an error.
pub enum Items {
    /// Made by an iterator, which may block.
    Blocking(BlockingItems),
    /// Polled on the plugin's runtime.
    #[cfg(all(unix, feature = "tokio"))]
    Polled(PolledItems),
}

/// Makes the next item.
pub(super) type BlockingItems = Box<dyn FnMut() -> Option<ItemResult> + Send>;

/// Polls for the next item.
#[cfg(all(unix, feature = "tokio"))]
pub(super) type PolledItems = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<ItemResult>> + Send>;

/// The items of a stream that a program serves.
pub trait ServedItems: fmt::Debug + Send {
    /// Makes the next item on this thread, or polls for it.
    fn poll_next(
        &mut self,
        context: &RawContext<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<ItemResult>>;
}

#[cfg(all(unix, feature = "serve"))]
impl ServedItems for Items {
    /// Makes the next item on this thread, or polls for it in the plugin's runtime.
    fn poll_next(
        &mut self,
        context: &RawContext<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<ItemResult>> {
        #[cfg(not(feature = "tokio"))]
        let _ = cx;
        in_context(context, || match self {
            Self::Blocking(next) => Poll::Ready(next()),
            #[cfg(feature = "tokio")]
            Self::Polled(poll_next) => match crate::runtime::handle() {
                Ok(runtime) => {
                    let _inside = runtime.enter();
                    poll_next(cx)
                }
                Err(cause) => {
                    let message = format!("cannot start the plugin's async runtime: {cause}");
                    Poll::Ready(Some(Err((Failed::Method, PluginError::new(503, message)))))
                }
            },
        })
    }
}

impl fmt::Debug for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocking(_) => "Blocking",
            #[cfg(all(unix, feature = "tokio"))]
            Self::Polled(_) => "Polled",
        })
    }
}
