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
pub(super) struct OutgoingBody(Option<Remaining>);

impl OutgoingBody {
    pub(super) fn empty() -> Self {
        Self(None)
    }
}

impl From<Output> for OutgoingBody {
    fn from(output: Output) -> Self {
        Self(
            (!output.is_empty()).then_some(Remaining { bytes: Source::Output(output), written: 0 }),
        )
    }
}

impl From<Vec<u8>> for OutgoingBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self((!bytes.is_empty()).then_some(Remaining { bytes: Source::Bytes(bytes), written: 0 }))
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
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Remaining>, Infallible>>> {
        Poll::Ready(self.0.take().map(|remaining| Ok(Frame::data(remaining))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Remaining::remaining) as u64)
    }
}
