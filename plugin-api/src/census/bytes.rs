//! Live bytes: an allocator around another one that counts what is out.
//!
//! One counter would make every thread wait for every other, so there are several, each on its
//! own cache line; a thread finds its own by the address of its stack, which costs a shift.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicI64, Ordering};

/// An allocator that counts the live bytes of the plugin.
#[derive(Debug)]
pub struct Counting<A> {
    inner: A,
}

impl<A> Counting<A> {
    /// Counts around `inner`.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }
}

const SHARDS: usize = 32;
/// Stacks of threads lie at least this far apart, so that the bits above tell threads apart.
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
}

/// Bytes that are out now; a sum over threads that go on, so exact only when they rest.
pub(super) fn live() -> i64 {
    LIVE.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
}

// SAFETY: every method hands its arguments on to `inner` and its answer back.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the one of `inner`.
        let block = unsafe { self.inner.alloc(layout) };
        if !block.is_null() {
            add(layout.size() as isize);
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the one of `inner`.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        if !block.is_null() {
            add(layout.size() as isize);
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the one of `inner`.
        unsafe { self.inner.dealloc(block, layout) };
        add(-(layout.size() as isize));
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the one of `inner`.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        if !moved.is_null() {
            add(new_size as isize - layout.size() as isize);
        }
        moved
    }
}
