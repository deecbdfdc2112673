//! HTTP bodies: requests are read up to a limit; responses are written without a copy.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Buf, Bytes, Frame, Incoming, SizeHint};

use crate::Output;

/// Maximum size of a request's body in bytes.
pub(super) const MAX_BODY_BYTES: u64 = 64 << 20;

/// The reason a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    /// The connection was closed before the end of the body.
    Incomplete,
}

/// Reads the whole body of a request.
pub(super) async fn read(mut body: Incoming) -> Result<Bytes, BodyError> {
    let declared = body.size_hint().lower();
    if declared > MAX_BODY_BYTES {
        return Err(BodyError::TooLarge);
    }
    let Some(first) = next_part(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(declared).unwrap_or(0).max(first.len()));
    bytes.extend_from_slice(&first);
    while let Some(part) = next_part(&mut body).await? {
        if (bytes.len() + part.len()) as u64 > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge);
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.into())
}

/// Returns the next part of a body, or `None` at its end.
pub(super) async fn next_part(body: &mut Incoming) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Incomplete),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// The body of a response, or of a request to the host.
#[derive(Debug)]
pub(super) struct OutgoingBody(Content);

#[derive(Debug)]
enum Content {
    /// `None` once it was written.
    Whole(Option<Remaining>),
    /// Made while it is written.
    #[cfg(feature = "contracts")]
    Lines(Box<dyn Lines>),
}

/// Makes the lines of a body.
#[cfg(feature = "contracts")]
pub(super) trait Lines: std::fmt::Debug + Send {
    /// Polls for the next line; `None` after the last one.
    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>>;
}

impl OutgoingBody {
    pub(super) fn empty() -> Self {
        Self(Content::Whole(None))
    }

    /// Returns a body whose lines are made when the connection accepts them.
    #[cfg(feature = "contracts")]
    pub(super) fn of_lines(lines: impl Lines + 'static) -> Self {
        Self(Content::Lines(Box::new(lines)))
    }

    /// Returns all bytes; `None` if they are made while they are written.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        match &self.0 {
            Content::Whole(remaining) => {
                Some(remaining.as_ref().map_or_else(Default::default, Buf::chunk))
            }
            #[cfg(feature = "contracts")]
            Content::Lines(_) => None,
        }
    }

    fn of(bytes: Source) -> Self {
        let remaining = Remaining { bytes, written: 0 };
        Self(Content::Whole((remaining.remaining() > 0).then_some(remaining)))
    }
}

impl From<Output> for OutgoingBody {
    fn from(output: Output) -> Self {
        Self::of(Source::Output(output))
    }
}

impl From<Vec<u8>> for OutgoingBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::of(Source::Bytes(bytes))
    }
}

/// The part that is not yet written.
#[derive(Debug)]
pub(super) struct Remaining {
    bytes: Source,
    written: usize,
}

#[derive(Debug)]
enum Source {
    Output(Output),
    Bytes(Vec<u8>),
}

impl Buf for Remaining {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        let bytes = match &self.bytes {
            Source::Output(output) => output.as_bytes(),
            Source::Bytes(bytes) => bytes,
        };
        &bytes[self.written..]
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
    }
}

impl Body for OutgoingBody {
    type Data = Remaining;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        #[cfg_attr(not(feature = "contracts"), allow(unused_variables, reason = "for lines"))]
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Remaining>, Infallible>>> {
        let part = match &mut self.0 {
            Content::Whole(remaining) => remaining.take(),
            #[cfg(feature = "contracts")]
            Content::Lines(lines) => match lines.poll_line(context) {
                Poll::Ready(line) => {
                    line.map(|line| Remaining { bytes: Source::Bytes(line), written: 0 })
                }
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(remaining) => {
                SizeHint::with_exact(remaining.as_ref().map_or(0, Remaining::remaining) as u64)
            }
            #[cfg(feature = "contracts")]
            Content::Lines(_) => SizeHint::default(),
        }
    }
}
