//! Stop requests, by signal or by code, and wake-ups of the main thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Wakes the main thread from any thread or signal handler, and records whether to stop.
#[derive(Debug)]
pub(super) struct StopSignal {
    receiver: UnixStream,
    sender: UnixStream,
    stop_requested: Arc<AtomicBool>,
}

impl StopSignal {
    /// Creates a stop signal that SIGTERM and SIGINT trigger from now on.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn new() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        sender.set_nonblocking(true)?;
        let stop_requested = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The flag first: when the main thread wakes up, the flag is set.
            signal_hook::flag::register(signal, Arc::clone(&stop_requested))?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { receiver, sender, stop_requested })
    }

    /// Requests the program to stop.
    pub(super) fn request_stop(&self) {
        self.stop_requested.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Returns whether a stop was requested.
    pub(super) fn is_stop_requested(&self) -> bool {
        self.stop_requested.load(Ordering::SeqCst)
    }

    /// Wakes the main thread.
    pub(super) fn wake(&self) {
        // A full socket already wakes the main thread.
        let _ = (&self.sender).write(&[1]);
    }

    /// Discards the wake-ups so far.
    pub(super) fn drain(&self) {
        while (&self.receiver).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    }
}

impl AsFd for StopSignal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
