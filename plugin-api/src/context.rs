//! What a call knows of itself: its id, its trace, how long it may take, whether it is still
//! wanted. Made by the host on its stack; nothing is looked up unless the plugin asks.

use std::marker::PhantomData;
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

    /// Whether the answer is not wanted any more: the caller cancelled, or the deadline has
    /// passed. Long work looks at this now and then.
    pub fn is_cancelled(&self) -> bool {
        let Some(is_cancelled) = self.raw.is_cancelled else { return false };
        // SAFETY: C1 (the function belongs to the side that made `raw` and takes just this).
        unsafe { is_cancelled(self.raw.host_data) }
    }

    /// How long the call may still take; zero when the deadline has passed, none without one.
    pub fn remaining(&self) -> Option<Duration> {
        let remaining_ns = self.raw.remaining_ns?;
        // SAFETY: C1 (the function belongs to the side that made `raw` and takes just this).
        let remaining_ns = unsafe { remaining_ns(self.raw.host_data) };
        (remaining_ns != NO_DEADLINE).then(|| Duration::from_nanos(remaining_ns))
    }
}

/// The time that is left where there is no deadline.
const NO_DEADLINE: u64 = u64::MAX;

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
/// Invariant C1: `trace` is null or good for 'a, and the functions belong to the side that made
/// the value and take its `host_data`.
#[doc(hidden)]
#[repr(C)]
#[derive(StableAbi)]
pub struct RawContext<'a> {
    call_id: u64,
    trace: *const TraceContext,
    is_cancelled: Option<unsafe extern "C" fn(*const ()) -> bool>,
    remaining_ns: Option<unsafe extern "C" fn(*const ()) -> u64>,
    host_data: *const (),
    lifetime: PhantomData<&'a ()>,
}

impl<'a> RawContext<'a> {
    /// The context of a call that nothing bounds.
    #[inline]
    pub fn new(call_id: u64) -> Self {
        Self {
            call_id,
            trace: ptr::null(),
            is_cancelled: None,
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

    /// Adds what bounds the call; it is asked each time the plugin asks.
    #[must_use]
    pub fn with_bounds<B: Bounds>(mut self, bounds: &'a B) -> Self {
        self.host_data = ptr::from_ref(bounds).cast();
        self.is_cancelled = Some(is_cancelled::<B>);
        self.remaining_ns = Some(remaining_ns::<B>);
        self
    }
}

impl fmt::Debug for RawContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawContext").field("call_id", &self.call_id).finish_non_exhaustive()
    }
}

/// What bounds a call in time.
#[doc(hidden)]
pub trait Bounds: Sync {
    /// Whether the answer is not wanted any more.
    fn is_cancelled(&self) -> bool;

    /// The time left; zero when the deadline has passed, none without one.
    fn remaining(&self) -> Option<Duration>;
}

unsafe extern "C" fn is_cancelled<B: Bounds>(host_data: *const ()) -> bool {
    // SAFETY: C1 (`with_bounds` stored a reference to a `B` beside this function).
    unsafe { &*host_data.cast::<B>() }.is_cancelled()
}

unsafe extern "C" fn remaining_ns<B: Bounds>(host_data: *const ()) -> u64 {
    // SAFETY: C1 (`with_bounds` stored a reference to a `B` beside this function).
    let remaining = unsafe { &*host_data.cast::<B>() }.remaining();
    let Some(remaining) = remaining else { return NO_DEADLINE };
    u64::try_from(remaining.as_nanos()).unwrap_or(u64::MAX).min(NO_DEADLINE - 1)
}
