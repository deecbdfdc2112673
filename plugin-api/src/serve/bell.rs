//! Stop requests, by signal or by code, and wake-ups of the main thread.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Wakes the main thread from any thread or signal handler, and records whether to stop.
#[derive(Debug)]
pub(super) struct Bell {
    near: UnixStream,
    far: UnixStream,
    stop: Arc<AtomicBool>,
}

impl Bell {
    /// Creates a stop signal that SIGTERM and SIGINT trigger from now on.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn new() -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The flag first: when the main thread wakes up, the flag is set.
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
            signal_hook::low_level::pipe::register(signal, far.try_clone()?)?;
        }
        Ok(Self { near, far, stop })
    }

    /// Requests the program to stop.
    pub(super) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Returns whether a stop was requested.
    pub(super) fn is_stop_asked(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Wakes the main thread.
    pub(super) fn ring(&self) {
        // A full socket already wakes the main thread.
        let _ = (&self.far).write(&[1]);
    }

    /// Discards the wake-ups so far.
    pub(super) fn hush(&self) {
        while (&self.near).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.near.as_fd()
    }
}
