//! Gives lines to a pipeline as a stream of requests, and remembers which are under way.
//! Bounds their bytes and how many go together; calls nothing.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec::IntoIter;

use futures_core::Stream;
use hotbay::Request;
use tokio::sync::mpsc::Receiver;

use crate::lines::{Chunk, Content, ReadLine};

/// Bytes of the lines that are under way, beyond which no more are given.
const BYTES_MAX: u64 = 16 << 20;

/// Lines that go together at most.
pub(crate) const TOGETHER_MAX: usize = 256;

/// Lines that come back sooner go together in greater numbers.
const SOON: Duration = Duration::from_millis(10);

/// Lines that come back later go together in smaller numbers, so that all cores have some, and
/// an end is not far.
const LATE: Duration = Duration::from_millis(40);

/// A line that is under way, or failed before it was.
pub(crate) struct Given {
    pub(crate) bytes: u64,
    pub(crate) state: State,
}

pub(crate) enum State {
    /// A request; `since` when, for the first of those that went together.
    Asked {
        copy: Option<Vec<u8>>,
        since: Option<Instant>,
    },
    TooLong,
}

/// The lines that are under way, in their order. Cheap to clone.
#[derive(Clone)]
pub(crate) struct UnderWay(Arc<Mutex<Inner>>);

struct Inner {
    lines: VecDeque<Given>,
    /// Of those that are requests.
    bytes: u64,
    together: usize,
    is_stopped: bool,
    broke: Option<io::Error>,
}

impl UnderWay {
    /// A feed of these lines, and the lines of it that are under way.
    pub(crate) fn feed(chunks: Receiver<Chunk>) -> (Feed, Self) {
        let inner =
            Inner { lines: VecDeque::new(), bytes: 0, together: 1, is_stopped: false, broke: None };
        let under_way = Self(Arc::new(Mutex::new(inner)));
        let feed = Feed {
            chunks,
            here: Vec::new().into_iter(),
            left: 1,
            is_first: true,
            under_way: under_way.clone(),
        };
        (feed, under_way)
    }

    /// Gives no more lines from now on.
    pub(crate) fn stop(&self) {
        self.lock().is_stopped = true;
    }

    /// Why there are no more, if that is not the end of the input.
    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.lock().broke.take()
    }

    /// Takes the oldest line, which is done.
    pub(crate) fn next(&self) -> Option<Given> {
        let mut inner = self.lock();
        let given = inner.lines.pop_front()?;
        if let State::Asked { since, .. } = &given.state {
            inner.bytes -= given.bytes;
            if let Some(since) = since {
                inner.together = paced(inner.together, since.elapsed());
            }
        }
        Some(given)
    }

    /// Takes the oldest line if it failed before it was under way.
    pub(crate) fn next_failed(&self) -> Option<Given> {
        let mut inner = self.lock();
        let is_failed = matches!(inner.lines.front()?.state, State::TooLong);
        if is_failed { inner.lines.pop_front() } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines go together after so many took that long.
fn paced(together: usize, took: Duration) -> usize {
    if took < SOON {
        (together * 2).min(TOGETHER_MAX)
    } else if took > LATE {
        (together / 2).max(1)
    } else {
        together
    }
}

/// A stream of requests, one for each line that can be one.
pub(crate) struct Feed {
    chunks: Receiver<Chunk>,
    /// Lines that are read.
    here: IntoIter<ReadLine>,
    /// How many more go together with those given last.
    left: usize,
    is_first: bool,
    under_way: UnderWay,
}

impl Stream for Feed {
    type Item = Request<'static>;

    /// Says now and then that nothing is there though something is, which ends a chunk of the
    /// pipeline. Lines are under way then, and whoever takes them asks here again.
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Request<'static>>> {
        let feed = &mut *self;
        let mut inner = feed.under_way.lock();
        if inner.is_stopped {
            return Poll::Ready(None);
        }
        if feed.left == 0 || inner.bytes >= BYTES_MAX {
            (feed.left, feed.is_first) = (inner.together, true);
            return Poll::Pending;
        }
        loop {
            let Some(ReadLine { bytes, content }) = feed.here.next() else {
                match feed.chunks.poll_recv(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Ready(Some(Ok(lines))) => feed.here = lines.into_iter(),
                    Poll::Ready(Some(Err(error))) => {
                        inner.broke = Some(error);
                        return Poll::Ready(None);
                    }
                }
                continue;
            };
            match content {
                Content::TooLong => inner.lines.push_back(Given { bytes, state: State::TooLong }),
                Content::Request(request, copy) => {
                    let since = feed.is_first.then(Instant::now);
                    inner.lines.push_back(Given { bytes, state: State::Asked { copy, since } });
                    inner.bytes += bytes;
                    feed.left -= 1;
                    feed.is_first = false;
                    return Poll::Ready(Some(request));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_lines_go_together_and_slow_ones_alone() {
        let [fast, fair, slow] = [1, 20, 1000].map(Duration::from_millis);
        assert_eq!(paced(1, fast), 2);
        assert_eq!(paced(200, fast), TOGETHER_MAX);
        assert_eq!(paced(8, fair), 8);
        assert_eq!(paced(8, slow), 4);
        assert_eq!(paced(1, slow), 1);
    }
}
