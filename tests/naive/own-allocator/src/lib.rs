//! A plugin with a custom allocator, which `export_plugin!` wraps to count live bytes.
//!
//! Returns the number of allocations through that allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU32, Ordering};

use hotbay_plugin::prelude::*;

static ALLOCATIONS: AtomicU32 = AtomicU32::new(0);

struct Own;

// SAFETY: forwards everything unchanged to the system allocator.
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

/// Leaks as many bytes as its input has, so that the count is visible.
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
