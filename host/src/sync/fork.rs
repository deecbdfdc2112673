//! Detects that this process was forked from the one that created a value. The parent's threads do
//! not exist in the child, and a lock that one of them held stays locked.
//!
//! Makes no system call for a check: a handler that runs in each child counts forks.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

/// Forks between the process that first created a [`ProcessEpoch`] and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The process that a value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessEpoch(u32);

impl ProcessEpoch {
    /// Returns this process.
    pub(crate) fn now() -> Self {
        count_forks();
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Returns whether this is still that process, and not a child forked from it.
    #[inline]
    pub(crate) fn is_current(self) -> bool {
        // Written once, before any code of the child runs.
        self.0 == FORKS.load(Ordering::Relaxed)
    }
}

/// Drops its value only in the process that created it. In a forked child the value is leaked: its
/// drop could wait for threads that do not exist there, or undo what the parent still uses.
#[derive(Clone, Debug)]
pub(crate) struct SameProcess<T> {
    value: ManuallyDrop<T>,
    process: ProcessEpoch,
}

impl<T> SameProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: ManuallyDrop::new(value), process: ProcessEpoch::now() }
    }

    /// Creates a value of the process to which another value belongs.
    pub(crate) fn of(process: ProcessEpoch, value: T) -> Self {
        Self { value: ManuallyDrop::new(value), process }
    }

    pub(crate) fn is_current(&self) -> bool {
        self.process.is_current()
    }
}

impl<T> Deref for SameProcess<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for SameProcess<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for SameProcess<T> {
    fn drop(&mut self) {
        if self.process.is_current() {
            // SAFETY: dropped here and nowhere else, and not used afterward.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

#[cfg(unix)]
fn count_forks() {
    use std::sync::atomic::AtomicBool;
    static IS_COUNTING: AtomicBool = AtomicBool::new(false);

    unsafe extern "C" fn in_child() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }

    if !IS_COUNTING.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler only adds to a static, which may be done after any fork. An error
        // (no memory) leaves forks unnoticed.
        let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}

/// Does nothing: this system has no fork.
#[cfg(not(unix))]
fn count_forks() {}
