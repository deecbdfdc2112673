//! HTTP bodies: requests are read up to a limit; responses are written without a copy.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Buf, Bytes, Frame, Incoming, SizeHint};

use crate::Output;

/// Maximum size of a request's body in bytes.
pub(super) const BODY_BYTES_MAX: u64 = 64 << 20;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotRead {
    TooLarge,
    /// The connection was closed before the end of the body.
    CutOff,
}

/// Reads the whole body of a request.
pub(super) async fn read(mut body: Incoming) -> Result<Bytes, NotRead> {
    let announced = body.size_hint().lower();
    if announced > BODY_BYTES_MAX {
        return Err(NotRead::TooLarge);
    }
    let Some(first) = next(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0).max(first.len()));
    bytes.extend_from_slice(&first);
    while let Some(part) = next(&mut body).await? {
        if (bytes.len() + part.len()) as u64 > BODY_BYTES_MAX {
            return Err(NotRead::TooLarge);
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.into())
}

/// Returns the next part of a body, or `None` at its end.
pub(super) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, NotRead> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(NotRead::CutOff),
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
pub(super) struct Reply(Option<Rest>);

impl Reply {
    pub(super) fn empty() -> Self {
        Self(None)
    }
}

impl From<Output> for Reply {
    fn from(output: Output) -> Self {
        Self((!output.is_empty()).then_some(Rest { bytes: Held::Output(output), at: 0 }))
    }
}

impl From<Vec<u8>> for Reply {
    fn from(bytes: Vec<u8>) -> Self {
        Self((!bytes.is_empty()).then_some(Rest { bytes: Held::Bytes(bytes), at: 0 }))
    }
}

/// The part that is not yet written.
#[derive(Debug)]
pub(super) struct Rest {
    bytes: Held,
    at: usize,
}

#[derive(Debug)]
enum Held {
    Output(Output),
    Bytes(Vec<u8>),
}

impl Buf for Rest {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        let bytes = match &self.bytes {
            Held::Output(output) => output.as_bytes(),
            Held::Bytes(bytes) => bytes,
        };
        &bytes[self.at..]
    }

    fn advance(&mut self, count: usize) {
        self.at += count;
    }
}

impl Body for Reply {
    type Data = Rest;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Rest>, Infallible>>> {
        Poll::Ready(self.0.take().map(|rest| Ok(Frame::data(rest))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Rest::remaining) as u64)
    }
}
