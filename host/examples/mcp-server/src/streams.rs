//! The streams of the protocol: standard input, whose end is reported, and standard output, which
//! plugins cannot write to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hotbay::CancellationToken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A reader that cancels a token at its end, so that long requests end with the connection.
#[derive(Debug)]
pub(crate) struct Input<R> {
    reader: R,
    ended: CancellationToken,
}

impl<R> Input<R> {
    pub(crate) fn new(reader: R, ended: CancellationToken) -> Self {
        Self { reader, ended }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Input<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.remaining();
        let read = ready!(Pin::new(&mut self.reader).poll_read(context, buffer));
        if read.is_err() || (before > 0 && buffer.remaining() == before) {
            self.ended.cancel();
        }
        Poll::Ready(read)
    }
}

/// Returns the writer of the protocol. From now on, what libraries print to standard output goes to
/// standard error: they share it with this process, and a line of theirs would be an invalid message.
#[cfg(unix)]
pub(crate) fn output() -> io::Result<impl AsyncWrite + Send + Unpin + 'static> {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    let protocol = io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok(tokio::fs::File::from_std(File::from(protocol)))
}

/// Returns the writer of the protocol.
#[cfg(not(unix))]
pub(crate) fn output() -> io::Result<impl AsyncWrite + Send + Unpin + 'static> {
    Ok(tokio::io::stdout())
}
