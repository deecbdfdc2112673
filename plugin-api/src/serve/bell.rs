//! Wakes the main thread: signals, requests to end, connections that have gone.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// A bell that any thread and any signal rings.
#[derive(Debug)]
pub(super) struct Bell {
    near: UnixStream,
    far: UnixStream,
    stop: Arc<AtomicBool>,
}

impl Bell {
    /// A bell that SIGTERM and SIGINT ring from now on, and ask to stop.
    ///
    /// # Errors
    ///
    /// The system's.
    pub(super) fn new() -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // In this order, so that whoever hears the bell sees the flag.
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
            signal_hook::low_level::pipe::register(signal, far.try_clone()?)?;
        }
        Ok(Self { near, far, stop })
    }

    /// Asks the program to end.
    pub(super) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether somebody asked the program to end.
    pub(super) fn is_stop_asked(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Wakes the main thread.
    pub(super) fn ring(&self) {
        // Full only if it is heard already.
        let _ = (&self.far).write(&[1]);
    }

    /// Forgets what has rung so far.
    pub(super) fn hush(&self) {
        while (&self.near).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.near.as_fd()
    }
}
