//! A plugin with an allocator of its own, around which the host counts.
//!
//! Answers with the number of allocations that went through that allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU32, Ordering};

use hotbay_plugin::prelude::*;

static ALLOCATIONS: AtomicU32 = AtomicU32::new(0);

struct Own;

// SAFETY: passes everything on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Own {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Leaks as many bytes as it is given, so that the count can be seen.
struct OwnAllocator;

impl Plugin for OwnAllocator {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        std::mem::forget(vec![0_u8; input.len()]);
        Ok(Output::text(ALLOCATIONS.load(Ordering::Relaxed).to_string()))
    }
}

export_plugin!(OwnAllocator, allocator = crate::Own);
