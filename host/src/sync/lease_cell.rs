//! A cell with an `Arc` that threads lease for a moment without a locked instruction, and that is
//! replaced while they do. The last lease of a replaced value drops the cell's reference to it.
//!
//! # Protocol
//!
//! The *word* of a cell is the pointer to its current value, and a *lane* (a number below
//! [`LANES`]) in the low bits. Each thread has a *line* of counters, one for each lane: how many
//! leases it holds there.
//!
//! A reader
//!
//! 1. loads the word and adds one to its counter of that lane,
//! 2. passes a light fence,
//! 3. loads the word again. If it is the same, the reader holds a lease; otherwise it leaves, and
//!    starts again.
//!
//! To leave, it subtracts one from the counter, passes a light fence, and loads `retired_lanes`. If
//! its lane is among them, it reclaims (see below).
//!
//! A writer holds the lock of `retired`, and
//!
//! 1. stores the new word, with a lane that no retired value has,
//! 2. adds the previous value to `retired`, and its lane to `retired_lanes`,
//! 3. passes the heavy fence,
//! 4. reclaims: removes each retired value in whose lane the counters of all threads are zero.
//!
//! # Why a leased value is not dropped
//!
//! The fences are asymmetric: a heavy fence makes every other thread of the process pass a full
//! fence somewhere between its start and its end, so a light fence only has to keep the compiler
//! from reordering. Each light fence of a reader is thus ordered before or after each heavy fence.
//!
//! - *A lease of the previous value.* If the light fence of step 2 comes before the heavy fence, the
//!   writer's sum includes the reader's increment. If it comes after, the reader's step 3 loads the
//!   new word, and no lease begins. It does not matter which value the word had at step 1: a lease
//!   begins only if its lane is that of the current word at step 3.
//! - *The last lease.* If the light fence of leaving comes before the heavy fence, the writer's sum
//!   includes the decrement. If it comes after, the reader sees its lane there and reclaims. Of
//!   several readers that leave at once, the last one to take the lock sees the decrements of all
//!   others. A reader that finds the lock held leaves a request, which the holder serves.
//! - *Reclaiming by a reader.* It holds the lock, so the heavy fence of every retired value has
//!   ended, and its sum includes all leases that began before.
//! - *Reuse of a lane.* A reader that was interrupted between steps 1 and 3 can add to a lane that
//!   belongs to another value by then. That delays the end of that value until the reader leaves,
//!   which reclaims again. If every lane has a retired value, a lane is shared: its values are
//!   dropped together, when nothing in the lane is leased.
//! - *Accesses.* A reader's accesses to the value come before its decrement, a release, which the
//!   sum acquires before the value is dropped. The value was written before the word, a release,
//!   which step 3 acquires.
//!
//! Threads beyond the number of lines share one, which they change by atomic additions.
//!
//! The heavy fence is `membarrier(2)` with `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, which gives exactly
//! this guarantee. If it is missing, both fences are sequentially consistent. This is decided once for
//! each process. folly's hazard pointers and the collectors of liburcu and seize use the same
//! barrier. `tests/loom` checks the protocol with fences on both sides, and that it fails if either
//! fence is missing.
//!
//! Leases of the current value check only their own lane, so a value that stays leased for long does
//! not slow them down.

use std::fmt;
use std::mem::{self, ManuallyDrop};
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::{Arc, TryLockError, Weak};

use super::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, Ordering, fence};
use super::locks::Mutex;
use super::sharded_counter::{LINES, Shard, shard};
use super::{lock, shards};

/// Number of lanes. The word contains the index of a lane in the bits that alignment leaves free.
const LANES: usize = 8;

/// The fences between readers and writers.
pub(crate) trait Fences: Send + Sync {
    /// Orders the reader's accesses before and after it, for writers that pass a heavy fence.
    fn light(&self);

    /// Orders the writer's accesses before and after it, for readers that pass a light fence.
    /// Returns whether it succeeded.
    fn heavy(&self) -> bool;
}

/// A cell with an `Arc` that threads lease.
pub(crate) struct LeaseCell<T, F: Fences> {
    /// A pointer from `Arc::into_raw`, or null; its lane is in the low bits. Written under the lock
    /// of `retired`.
    word: AtomicPtr<T>,
    /// The lanes of `retired`, one bit each; all bits while an entry is not fenced.
    retired_lanes: AtomicU8,
    /// Whether a reader asks the holder of the lock to reclaim.
    is_reclaim_requested: AtomicBool,
    fences: F,
    retired: Mutex<Vec<Retired<T>>>,
    lines: [Line; LINES],
}

/// The counters of one thread, in one cache line; the last line is shared.
#[repr(align(64))]
struct Line {
    /// Leases in each lane.
    leases: [AtomicU32; LANES],
    /// A counter for the owner of the cell, next to the leases so that a call writes to one cache
    /// line.
    count: AtomicI64,
}

/// A value that was replaced, and may still be leased.
struct Retired<T> {
    value: Arc<T>,
    lane: usize,
    /// Whether a heavy fence followed its replacement.
    is_fenced: bool,
}

// SAFETY: the cell shares and sends `Arc<T>`; the raw pointer in its word owns one.
unsafe impl<T: Send + Sync, F: Fences> Send for LeaseCell<T, F> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync, F: Fences> Sync for LeaseCell<T, F> {}

/// A lease of the value that was current when it began. Stays on its thread, whose counter it is in.
pub(crate) struct Lease<'c, T, F: Fences> {
    _counted: Counted<'c, T, F>,
    /// Valid while it is counted: L1.
    value: NonNull<T>,
}

/// One lease in a counter.
struct Counted<'c, T, F: Fences> {
    cell: &'c LeaseCell<T, F>,
    count: &'c AtomicU32,
    lane: usize,
    /// Whether no other thread writes to the counter.
    is_owned: bool,
    /// The counter before this lease.
    before: u32,
}

// Invariants:
// L1: a value is not dropped while a lease of it is counted in its lane (see above).
// L2: the pointer in the word is null or came from `Arc::into_raw`, and the word owns that reference.

impl<T, F: Fences> LeaseCell<T, F> {
    /// Creates an empty cell.
    pub(crate) fn new(fences: F) -> Self {
        const { assert!(mem::align_of::<T>() >= LANES, "the lane needs the low bits") };
        let line = |_| Line {
            leases: std::array::from_fn(|_| AtomicU32::new(0)),
            count: AtomicI64::new(0),
        };
        Self {
            word: AtomicPtr::new(ptr::null_mut()),
            retired_lanes: AtomicU8::new(0),
            is_reclaim_requested: AtomicBool::new(false),
            fences,
            retired: Mutex::new(Vec::new()),
            lines: std::array::from_fn(line),
        }
    }

    /// Leases the current value.
    #[inline]
    pub(crate) fn lease(&self) -> Option<Lease<'_, T, F>> {
        self.lease_by(shard())
    }

    /// Leases the current value for the thread that has this shard.
    #[inline]
    fn lease_by(&self, shard: Shard) -> Option<Lease<'_, T, F>> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            match self.lease_word(word, shard) {
                Ok(lease) => return lease,
                Err(now) => word = now,
            }
        }
    }

    /// Leases the current value for the thread that has this shard, unless there is none or it is
    /// replaced at this moment. Without a loop, the lease of an inlined call stays in registers.
    #[inline(always)]
    pub(crate) fn try_lease_by(&self, shard: Shard) -> Option<Lease<'_, T, F>> {
        self.lease_word(self.word.load(Ordering::Relaxed), shard).ok()?
    }

    /// Leases the value of a word; fails with the current word if that is another one.
    #[inline(always)]
    fn lease_word(&self, word: *mut T, shard: Shard) -> Result<Option<Lease<'_, T, F>>, *mut T> {
        let (value, lane) = split(word);
        let Some(value) = NonNull::new(value) else { return Ok(None) };
        let counted = Counted::enter(self, shard, lane);
        let now = self.word.load(Ordering::Acquire);
        if now != word {
            end_early(counted);
            return Err(now);
        }
        Ok(Some(Lease { _counted: counted, value }))
    }

    /// Adds one to the count of this thread.
    #[inline(always)]
    pub(crate) fn count_by(&self, shard: Shard) {
        shards::add(&self.lines[shard.index()].count, 1, shard.is_owned());
    }

    /// Returns the sum of the counts of all threads.
    pub(crate) fn count(&self) -> i64 {
        shards::sum(self.lines.iter().map(|line| &line.count))
    }

    /// Returns the current value, to be held longer than a lease.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.lease().map(|lease| lease.to_arc())
    }

    /// Replaces the value, and returns what `with_previous` returns for the previous one.
    pub(crate) fn replace<R>(
        &self,
        value: Option<Arc<T>>,
        with_previous: impl FnOnce(&Arc<T>) -> R,
    ) -> Option<R> {
        let mut retired = lock(&self.retired);
        let (previous, lane) = split(self.word.load(Ordering::Relaxed));
        let value = value.map_or(ptr::null_mut(), |value| Arc::into_raw(value).cast_mut());
        let is_taken = |lane: &usize| retired.iter().any(|retired| retired.lane == *lane);
        let next = (1..LANES).map(|step| (lane + step) % LANES).find(|lane| !is_taken(lane));
        let next = next.unwrap_or((lane + 1) % LANES);
        self.word.store(value.map_addr(|address| address | next), Ordering::Release);
        if previous.is_null() {
            drop(retired);
            self.serve_requests();
            return None;
        }
        // SAFETY: L2, and the word no longer owns it.
        let previous = unsafe { Arc::from_raw(previous) };
        // Added first: it must not be dropped if the function panics.
        retired.push(Retired { value: previous, lane, is_fenced: false });
        let result = retired.last().map(|previous| with_previous(&previous.value));
        let free = self.reclaim(&mut retired);
        drop(retired);
        // Not under the lock: a value may do anything when it is dropped.
        drop(free);
        self.serve_requests();
        result
    }

    /// Returns the number of leases and references of a value that was replaced.
    pub(crate) fn uses(&self, value: &Weak<T>) -> usize {
        let retired = lock(&self.retired);
        let is_same = |retired: &&Retired<T>| ptr::eq(Arc::as_ptr(&retired.value), value.as_ptr());
        let (mut leases, mut own) = (0, 0);
        for one in retired.iter().filter(is_same) {
            leases += self.leases(one.lane);
            own += 1;
        }
        drop(retired);
        self.serve_requests();
        (leases + value.strong_count()).saturating_sub(own)
    }

    /// Returns the number of leases in a lane, as far as this thread sees them.
    fn leases(&self, lane: usize) -> usize {
        // Acquire: what was done under a lease comes before its end.
        self.lines.iter().map(|line| line.leases[lane].load(Ordering::Acquire) as usize).sum()
    }

    /// Removes the retired values that are no longer leased.
    fn reclaim(&self, retired: &mut Vec<Retired<T>>) -> Vec<Retired<T>> {
        if retired.iter().any(|one| !one.is_fenced) {
            // Before the fence, so that each reader that the sums below miss sees it.
            self.retired_lanes.store(u8::MAX, Ordering::Relaxed);
            // If it fails, no sum proves anything. The next lease that ends tries again.
            if self.fences.heavy() {
                retired.iter_mut().for_each(|one| one.is_fenced = true);
            }
        }
        let is_free = |one: &mut Retired<T>| one.is_fenced && self.leases(one.lane) == 0;
        let free = retired.extract_if(.., is_free).collect();
        let lanes = retired.iter().map(|one| if one.is_fenced { 1 << one.lane } else { u8::MAX });
        self.retired_lanes.store(lanes.fold(0, |all, lane| all | lane), Ordering::Relaxed);
        free
    }

    /// Reclaims after a lease ended. A caller never waits for the lock: a writer holds it while all
    /// threads pass a barrier.
    #[cold]
    fn reclaim_after_lease(&self) {
        // Release: the reclaim that serves the request sees the end of the lease. A swap, since a store
        // of another reader would hide it.
        self.is_reclaim_requested.swap(true, Ordering::Release);
        self.serve_requests();
    }

    /// Reclaims as long as readers ask for it, unless another thread holds the lock. That thread
    /// calls this, too, when it has released the lock. The fences make sure that it sees the
    /// request, or that this thread sees the lock released.
    fn serve_requests(&self) {
        loop {
            fence(Ordering::SeqCst);
            if !self.is_reclaim_requested.load(Ordering::Relaxed) {
                return;
            }
            let mut retired = match self.retired.try_lock() {
                Ok(retired) => retired,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.is_reclaim_requested.swap(false, Ordering::Acquire);
            let free = self.reclaim(&mut retired);
            drop(retired);
            drop(free);
        }
    }
}

/// Splits a word into its pointer and its lane.
#[inline]
fn split<T>(word: *mut T) -> (*mut T, usize) {
    (word.map_addr(|address| address & !(LANES - 1)), word.addr() & (LANES - 1))
}

impl<T, F: Fences> Lease<'_, T, F> {
    /// Returns a reference that may be held longer than the lease.
    pub(crate) fn to_arc(&self) -> Arc<T> {
        // SAFETY: L1, L2 (the pointer came from `Arc::into_raw`, and this reference, which belongs to
        // the cell, is not dropped).
        let value = ManuallyDrop::new(unsafe { Arc::from_raw(self.value.as_ptr()) });
        Arc::clone(&value)
    }
}

impl<T, F: Fences> Deref for Lease<'_, T, F> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: L1.
        unsafe { self.value.as_ref() }
    }
}

impl<'c, T, F: Fences> Counted<'c, T, F> {
    #[inline(always)]
    fn enter(cell: &'c LeaseCell<T, F>, shard: Shard, lane: usize) -> Self {
        let (count, is_owned) = (&cell.lines[shard.index()].leases[lane], shard.is_owned());
        let before = if is_owned {
            // No other thread writes here, so nothing can come between the load and the store.
            let before = count.load(Ordering::Relaxed);
            count.store(before.wrapping_add(1), Ordering::Relaxed);
            before
        } else {
            count.fetch_add(1, Ordering::Relaxed)
        };
        cell.fences.light();
        Self { cell, count, lane, is_owned, before }
    }
}

impl<T, F: Fences> Drop for Counted<'_, T, F> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: what was done under the lease comes before its end.
        if self.is_owned {
            let now = self.count.load(Ordering::Relaxed);
            // Usually all later leases of the thread have ended. Storing the value known from before
            // does not wait for the load, as a subtraction would.
            if now == self.before.wrapping_add(1) {
                self.count.store(self.before, Ordering::Release);
            } else {
                subtract_one(self.count, now);
            }
        } else {
            self.count.fetch_sub(1, Ordering::Release);
        }
        self.cell.fences.light();
        if self.cell.retired_lanes.load(Ordering::Relaxed) & (1 << self.lane) != 0 {
            self.cell.reclaim_after_lease();
        }
    }
}

/// Ends a lease that was counted in the lane of a value that is not current.
#[cold]
#[inline(never)]
fn end_early<T, F: Fences>(counted: Counted<'_, T, F>) {
    drop(counted);
}

/// Subtracts one from a counter that only this thread writes to. A function, so that the compiler does
/// not replace the branch to it by a wait for `now`.
#[cold]
#[inline(never)]
fn subtract_one(count: &AtomicU32, now: u32) {
    count.store(now.wrapping_sub(1), Ordering::Release);
}

impl<T, F: Fences> Drop for LeaseCell<T, F> {
    fn drop(&mut self) {
        let (value, _) = split(self.word.load(Ordering::Relaxed));
        if !value.is_null() {
            // SAFETY: L2, and no lease borrows the cell.
            drop(unsafe { Arc::from_raw(value) });
        }
    }
}

impl<T, F: Fences> fmt::Debug for LeaseCell<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseCell").finish_non_exhaustive()
    }
}
