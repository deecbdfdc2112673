//! The fences of leases in this process: `membarrier(2)` on Linux, sequentially consistent fences
//! if that is missing.

use std::sync::atomic::{Ordering, compiler_fence, fence};

use once_cell::race::OnceBool;

use super::lease_cell::Fences;

/// The fences of this process. All copies are the same kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessFences {
    is_asymmetric: bool,
}

impl ProcessFences {
    /// Returns the fences, and decides their kind the first time.
    pub(crate) fn get() -> Self {
        // Threads race instead of waiting: a child forked meanwhile would wait forever for a thread
        // that it does not have. Registering takes milliseconds, and may be done twice.
        static IS_ASYMMETRIC: OnceBool = OnceBool::new();
        Self { is_asymmetric: IS_ASYMMETRIC.get_or_init(membarrier::register) }
    }

    /// Returns fences for systems without `membarrier`.
    #[cfg(test)]
    pub(crate) fn symmetric() -> Self {
        Self { is_asymmetric: false }
    }
}

impl Fences for ProcessFences {
    #[inline]
    fn light(&self) {
        if self.is_asymmetric {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::SeqCst);
        }
    }

    fn heavy(&self) -> bool {
        if self.is_asymmetric {
            return membarrier::run();
        }
        fence(Ordering::SeqCst);
        true
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod membarrier {
    use rustix::thread::{MembarrierCommand, membarrier};

    pub(super) fn register() -> bool {
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    pub(super) fn run() -> bool {
        membarrier(MembarrierCommand::PrivateExpedited).is_ok()
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod membarrier {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn run() -> bool {
        false
    }
}
