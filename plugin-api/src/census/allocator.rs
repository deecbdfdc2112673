//! An allocator that wraps another one and counts the bytes that are allocated.
//!
//! A single counter would be contended, so there are several, each on its own cache line. A thread
//! selects one by the address of its stack, without a thread-local.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicI64, Ordering};

use super::call_meter;

/// Counts the live bytes of the plugin.
#[derive(Debug)]
pub struct CountingAllocator<A> {
    inner: A,
}

impl<A> CountingAllocator<A> {
    /// Wraps `inner`.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }
}

const SHARDS: usize = 32;
/// Thread stacks are at least this far apart, so the higher bits differ between threads.
const STACK_BITS: u32 = 17;

#[repr(align(128))]
struct Shard(AtomicI64);

static LIVE: [Shard; SHARDS] = [const { Shard(AtomicI64::new(0)) }; SHARDS];

#[inline]
fn shard() -> &'static AtomicI64 {
    let on_stack = 0_u8;
    let address = (&raw const on_stack).addr();
    let mixed = ((address >> STACK_BITS) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    &LIVE[(mixed >> 59) as usize % SHARDS].0
}

#[inline]
fn add(bytes: isize) {
    shard().fetch_add(bytes as i64, Ordering::Relaxed);
    if call_meter::is_used() {
        call_meter::record(bytes);
    }
}

/// Returns the number of live bytes; exact only while no other thread allocates or frees.
pub(super) fn live_bytes() -> i64 {
    LIVE.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
}

// SAFETY: every method passes its arguments to `inner` and returns its result.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the contract of `inner` is the same.
        let block = unsafe { self.inner.alloc(layout) };
        if !block.is_null() {
            add(layout.size() as isize);
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the contract of `inner` is the same.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        if !block.is_null() {
            add(layout.size() as isize);
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the contract of `inner` is the same.
        unsafe { self.inner.dealloc(block, layout) };
        add(-(layout.size() as isize));
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the contract of `inner` is the same.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        if !moved.is_null() {
            add(new_size as isize - layout.size() as isize);
        }
        moved
    }
}
