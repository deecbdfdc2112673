//! Wakes a thread that sleeps in `poll`, from any thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Wake;

/// Not notified, and the thread does not sleep.
const IDLE: u8 = 0;
/// Notified since the thread last checked.
const NOTIFIED: u8 = 1;
/// The thread sleeps or is about to: a notification must make the descriptor readable.
const SLEEPING: u8 = 2;

/// Wakes one thread.
#[derive(Debug)]
pub(super) struct ThreadWaker {
    state: AtomicU8,
    wake_fd: WakeFd,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<ThreadWaker>>> = const { RefCell::new(None) };
}

impl ThreadWaker {
    /// Returns the waker of the current thread; creates it on first use.
    pub(super) fn current() -> io::Result<Arc<Self>> {
        CURRENT.with_borrow_mut(|current| {
            if let Some(waker) = current {
                return Ok(Arc::clone(waker));
            }
            let waker = Arc::new(Self { state: AtomicU8::new(IDLE), wake_fd: WakeFd::new()? });
            *current = Some(Arc::clone(&waker));
            Ok(waker)
        })
    }

    /// Returns whether the thread was notified since the last check.
    pub(super) fn take_notified(&self) -> bool {
        self.state.swap(IDLE, Ordering::Acquire) == NOTIFIED
    }

    /// Marks the thread as about to sleep; returns `false` if it was notified.
    pub(super) fn prepare_sleep(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.compare_exchange(IDLE, SLEEPING, success, failure).is_ok()
    }

    /// Marks the thread as awake; keeps notifications that arrived meanwhile. The descriptor may
    /// be readable because of a notification before this sleep.
    pub(super) fn end_sleep(&self, was_readable: bool) {
        if was_readable {
            self.wake_fd.drain();
        }
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        // A failure means that the thread was notified; the next check sees it.
        let _ = self.state.compare_exchange(SLEEPING, IDLE, success, failure);
    }

    /// Notifies the thread and wakes it if it sleeps.
    pub(super) fn notify(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING {
            self.wake_fd.signal();
        }
    }
}

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

impl AsFd for ThreadWaker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_fd.as_fd()
    }
}

#[cfg(target_os = "linux")]
mod wake_fd {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    /// A descriptor that becomes readable when it is signaled.
    #[derive(Debug)]
    pub(super) struct WakeFd(OwnedFd);

    impl WakeFd {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        pub(super) fn signal(&self) {
            // A failed write means that the descriptor is already readable.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn drain(&self) {
            // Only this thread reads it, so it is still readable.
            let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
        }
    }

    impl AsFd for WakeFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod wake_fd {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    /// A descriptor that becomes readable when it is signaled.
    #[derive(Debug)]
    pub(super) struct WakeFd {
        receiver: UnixStream,
        sender: UnixStream,
    }

    impl WakeFd {
        pub(super) fn new() -> io::Result<Self> {
            let (receiver, sender) = UnixStream::pair()?;
            receiver.set_nonblocking(true)?;
            sender.set_nonblocking(true)?;
            Ok(Self { receiver, sender })
        }

        pub(super) fn signal(&self) {
            // A failed write means that the descriptor is already readable.
            let _ = (&self.sender).write(&[1]);
        }

        pub(super) fn drain(&self) {
            // Only this thread reads it, so it is still readable.
            let _ = (&self.receiver).read(&mut [0; 64]);
        }
    }

    impl AsFd for WakeFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.receiver.as_fd()
        }
    }
}

use wake_fd::WakeFd;
