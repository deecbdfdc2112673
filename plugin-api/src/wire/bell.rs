//! Wakes a thread that sleeps in `poll`, from any thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Wake;

/// Nobody rang, and nobody sleeps.
const QUIET: u8 = 0;
/// Somebody rang since the thread last looked.
const RUNG: u8 = 1;
/// The thread sleeps, or is about to: whoever rings has to make the descriptor readable.
const ASLEEP: u8 = 2;

/// The bell of one thread.
#[derive(Debug)]
pub(super) struct Bell {
    state: AtomicU8,
    line: Line,
}

thread_local! {
    static OWN: RefCell<Option<Arc<Bell>>> = const { RefCell::new(None) };
}

impl Bell {
    /// The bell of this thread, made when first wanted.
    pub(super) fn own() -> io::Result<Arc<Self>> {
        OWN.with_borrow_mut(|own| {
            if let Some(bell) = own {
                return Ok(Arc::clone(bell));
            }
            let bell = Arc::new(Self { state: AtomicU8::new(QUIET), line: Line::new()? });
            *own = Some(Arc::clone(&bell));
            Ok(bell)
        })
    }

    /// Whether somebody rang since this was asked last.
    pub(super) fn was_rung(&self) -> bool {
        self.state.swap(QUIET, Ordering::Acquire) == RUNG
    }

    /// The thread is about to sleep; false if somebody rang.
    pub(super) fn fall_asleep(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state.compare_exchange(QUIET, ASLEEP, success, failure).is_ok()
    }

    /// The thread is awake again; whoever rang meanwhile still counts. `was_pulled`: the
    /// descriptor was readable, perhaps for somebody who rang before this sleep.
    pub(super) fn wake_up(&self, was_pulled: bool) {
        if was_pulled {
            self.line.drain();
        }
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        // Not asleep: somebody rang, which is seen by whoever looks next.
        let _ = self.state.compare_exchange(ASLEEP, QUIET, success, failure);
    }

    /// Counts as rung, for whoever looks next.
    pub(super) fn ring(&self) {
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            self.line.pull();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

#[cfg(target_os = "linux")]
mod line {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    /// A descriptor that becomes readable when it is pulled.
    #[derive(Debug)]
    pub(super) struct Line(OwnedFd);

    impl Line {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
        }

        pub(super) fn pull(&self) {
            // Full only if it is readable already.
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn drain(&self) {
            // Another thread never reads it, so it is readable still.
            let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
        }
    }

    impl AsFd for Line {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod line {
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    /// A descriptor that becomes readable when it is pulled.
    #[derive(Debug)]
    pub(super) struct Line {
        near: UnixStream,
        far: UnixStream,
    }

    impl Line {
        pub(super) fn new() -> io::Result<Self> {
            let (near, far) = UnixStream::pair()?;
            near.set_nonblocking(true)?;
            far.set_nonblocking(true)?;
            Ok(Self { near, far })
        }

        pub(super) fn pull(&self) {
            // Full only if it is readable already.
            let _ = (&self.far).write(&[1]);
        }

        pub(super) fn drain(&self) {
            // Another thread never reads it, so it is readable still.
            let _ = (&self.near).read(&mut [0; 64]);
        }
    }

    impl AsFd for Line {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.near.as_fd()
        }
    }
}

use line::Line;
