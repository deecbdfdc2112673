//! What a call knows of itself: its id, its trace, how long it may take, whether it is still
//! wanted. Made by the host on its stack; nothing is looked up unless the plugin asks.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, ptr};

use abi_stable::StableAbi;

/// Where a call stands in a distributed trace, in the terms of W3C Trace Context.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, StableAbi)]
pub struct TraceContext {
    /// The trace that the call belongs to.
    pub trace_id: [u8; 16],
    /// The span that made the call.
    pub span_id: [u8; 8],
    /// The trace flags; bit 0 says sampled.
    pub flags: u8,
}

/// What the host tells a plugin about one call.
#[derive(Clone, Copy)]
pub struct CallContext<'a> {
    raw: &'a RawContext<'a>,
}

impl<'a> CallContext<'a> {
    #[doc(hidden)]
    #[inline]
    pub fn new(raw: &'a RawContext<'a>) -> Self {
        Self { raw }
    }

    /// The id of the call, unique in the host's process.
    pub fn call_id(&self) -> u64 {
        self.raw.call_id
    }

    /// The trace that the call belongs to, if the caller named one.
    pub fn trace(&self) -> Option<TraceContext> {
        // SAFETY: C1 (`trace` is null or points to a value that lives for 'a).
        unsafe { self.raw.trace.as_ref() }.copied()
    }

    /// Whether nobody waits for the answer any more. Long work looks at this now and then.
    pub fn is_cancelled(&self) -> bool {
        // SAFETY: C1 (`cancelled` is null or points to a value that lives for 'a).
        let cancelled = unsafe { self.raw.cancelled.as_ref() };
        cancelled.is_some_and(|cancelled| cancelled.load(Ordering::Relaxed))
    }

    /// How long the call may still take; zero when the deadline has passed, none without one.
    pub fn remaining(&self) -> Option<Duration> {
        let remaining_ns = self.raw.remaining_ns?;
        // SAFETY: C1 (the function belongs to the side that made `raw` and takes just this).
        Some(Duration::from_nanos(unsafe { remaining_ns(self.raw.host_data) }))
    }
}

impl fmt::Debug for CallContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext")
            .field("call_id", &self.call_id())
            .field("trace", &self.trace())
            .field("is_cancelled", &self.is_cancelled())
            .field("remaining", &self.remaining())
            .finish()
    }
}

/// A [`CallContext`] on the boundary. Passed by pointer; grows at its end.
///
/// Invariant C1: the pointers are null or good for 'a, and `remaining_ns` is a function of the
/// side that made the value and takes its `host_data`.
#[doc(hidden)]
#[repr(C)]
#[derive(StableAbi)]
pub struct RawContext<'a> {
    call_id: u64,
    trace: *const TraceContext,
    cancelled: *const AtomicBool,
    remaining_ns: Option<unsafe extern "C" fn(*const ()) -> u64>,
    host_data: *const (),
    lifetime: PhantomData<&'a ()>,
}

impl<'a> RawContext<'a> {
    /// The context of a call that has neither trace nor deadline.
    #[inline]
    pub fn new(call_id: u64) -> Self {
        Self {
            call_id,
            trace: ptr::null(),
            cancelled: ptr::null(),
            remaining_ns: None,
            host_data: ptr::null(),
            lifetime: PhantomData,
        }
    }

    /// Adds the trace that the call belongs to.
    #[inline]
    #[must_use]
    pub fn with_trace(mut self, trace: Option<&'a TraceContext>) -> Self {
        self.trace = trace.map_or(ptr::null(), ptr::from_ref);
        self
    }

    /// Adds the flag that turns true when nobody waits any more.
    #[must_use]
    pub fn with_cancelled(mut self, cancelled: &'a AtomicBool) -> Self {
        self.cancelled = cancelled;
        self
    }

    /// Adds a deadline, read by calling `D` each time it is asked for.
    #[must_use]
    pub fn with_deadline<D: Deadline>(mut self, deadline: &'a D) -> Self {
        self.host_data = ptr::from_ref(deadline).cast();
        self.remaining_ns = Some(remaining_ns::<D>);
        self
    }
}

impl fmt::Debug for RawContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawContext").field("call_id", &self.call_id).finish_non_exhaustive()
    }
}

/// Something that knows how much time is left.
#[doc(hidden)]
pub trait Deadline: Sync {
    /// The time left; zero when the deadline has passed.
    fn remaining(&self) -> Duration;
}

unsafe extern "C" fn remaining_ns<D: Deadline>(host_data: *const ()) -> u64 {
    // SAFETY: C1 (`with_deadline` stored a reference to a `D` beside this function).
    let deadline = unsafe { &*host_data.cast::<D>() };
    u64::try_from(deadline.remaining().as_nanos()).unwrap_or(u64::MAX)
}
