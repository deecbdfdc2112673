//! The context of a call: its id, trace, remaining time and cancellation. The host creates it on
//! the stack, and evaluates it only when the plugin queries it.

#[cfg(feature = "contracts")]
use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;
use std::{fmt, ptr};

use abi_stable::StableAbi;

/// Position of a call in a distributed trace, as in W3C Trace Context.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, StableAbi)]
pub struct TraceContext {
    /// Id of the trace.
    pub trace_id: [u8; 16],
    /// Id of the span that made the call.
    pub span_id: [u8; 8],
    /// Trace flags; bit 0 means sampled.
    pub flags: u8,
}

/// The context of one call: id, trace, deadline and cancellation.
///
/// ```
/// use hotbay_plugin::{CallContext, PluginError};
///
/// /// Work that stops when its result is no longer wanted.
/// fn count_to(limit: u32, ctx: &CallContext<'_>) -> Result<u32, PluginError> {
///     for number in 0..limit {
///         if number % 1_000 == 0 && ctx.is_cancelled() {
///             return Err(PluginError::new(499, "cancelled").retryable());
///         }
///     }
///     Ok(limit)
/// }
/// # let raw = hotbay_plugin::abi::RawContext::new(1);
/// # let ctx = CallContext::new(&raw);
///
/// assert_eq!(ctx.remaining(), None); // This call has no deadline.
/// assert_eq!(count_to(5_000, &ctx)?, 5_000);
/// # Ok::<(), PluginError>(())
/// ```
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

    /// Returns the context as it crosses.
    #[doc(hidden)]
    pub fn raw(&self) -> &'a RawContext<'a> {
        self.raw
    }

    /// Returns the id of the call, unique in the host's process.
    #[inline]
    pub fn call_id(&self) -> u64 {
        self.raw.call_id
    }

    /// Returns the trace that the call belongs to, if the caller passed one.
    #[inline]
    pub fn trace(&self) -> Option<TraceContext> {
        // SAFETY: C1 (`trace` is null or points to a value that is valid for `'a`).
        unsafe { self.raw.trace.as_ref() }.copied()
    }

    /// Returns whether the caller cancelled the call or its deadline has passed. Long calls should
    /// check this regularly and return early.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        let Some(is_cancelled) = self.raw.is_cancelled else { return false };
        // SAFETY: C1 (the function accepts this `host_data`).
        unsafe { is_cancelled(self.raw.host_data) }
    }

    /// Returns the time until the deadline: zero if it has passed, `None` if the call has none.
    #[inline]
    pub fn remaining(&self) -> Option<Duration> {
        let remaining_ns = self.raw.remaining_ns?;
        // SAFETY: C1 (the function accepts this `host_data`).
        let remaining_ns = unsafe { remaining_ns(self.raw.host_data) };
        (remaining_ns != NO_DEADLINE).then(|| Duration::from_nanos(remaining_ns))
    }
}

/// Interval at which a wait checks whether its call was cancelled. Nothing wakes it: a cancellation
/// crosses between plugin and host as a function that is queried.
#[doc(hidden)]
pub const CANCEL_INTERVAL: Duration = Duration::from_millis(10);

/// Remaining time of a call without a deadline.
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

/// The ABI of a [`CallContext`]. Passed by pointer; new fields go at the end.
///
/// Invariant C1: `trace` is null or valid for `'a`, and the functions accept `host_data`.
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

// SAFETY: C1 (`with_bounds` takes a `Sync` value, and the trace is plain data).
unsafe impl Sync for RawContext<'_> {}

impl<'a> RawContext<'a> {
    /// Creates the context of a call without a trace, deadline or cancellation.
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

    /// Returns whether it has a deadline, a cancellation or a trace.
    #[cfg(feature = "contracts")]
    #[inline]
    pub(crate) fn has_more_than_an_id(&self) -> bool {
        !self.trace.is_null() || self.is_cancelled.is_some()
    }

    /// Sets the trace that the call belongs to.
    #[inline]
    #[must_use]
    pub fn with_trace(mut self, trace: Option<&'a TraceContext>) -> Self {
        self.trace = trace.map_or(ptr::null(), ptr::from_ref);
        self
    }

    /// Sets the bounds of the call, which are queried each time the plugin queries the context.
    #[inline]
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

/// The deadline and cancellation of a call.
#[doc(hidden)]
pub trait Bounds: Sync {
    /// Returns whether the call was cancelled or its deadline has passed.
    fn is_cancelled(&self) -> bool;

    /// Returns the time until the deadline: zero if it has passed, `None` if the call has none.
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

#[cfg(feature = "contracts")]
thread_local! {
    /// The context of the current call, if it has a deadline, a token or a trace. Without
    /// a destructor, which would keep the library mapped.
    static CONTEXT: Cell<*const RawContext<'static>> = const { Cell::new(ptr::null()) };
}

/// Runs `call` with `context` as the current one.
#[cfg(feature = "contracts")]
#[inline(always)]
pub(crate) fn in_context<R>(context: &RawContext<'_>, call: impl FnOnce() -> R) -> R {
    if !context.has_more_than_an_id() {
        return call();
    }
    let pointer = ptr::from_ref(context).cast::<RawContext<'static>>();
    let _current = CurrentContext(CONTEXT.replace(pointer));
    call()
}

/// Runs `call` like [`in_context`], if there is a context.
#[cfg(feature = "contracts")]
#[inline(always)]
pub(crate) fn in_optional_context<R>(
    context: Option<&RawContext<'_>>,
    call: impl FnOnce() -> R,
) -> R {
    match context {
        None => call(),
        Some(context) => in_context(context, call),
    }
}

/// Runs `call`: without contracts, nothing needs its context.
#[cfg(not(feature = "contracts"))]
#[inline(always)]
pub(crate) fn in_context<R>(_: &RawContext<'_>, call: impl FnOnce() -> R) -> R {
    call()
}

/// Restores the previous context when it is dropped.
#[cfg(feature = "contracts")]
struct CurrentContext(*const RawContext<'static>);

#[cfg(feature = "contracts")]
impl Drop for CurrentContext {
    fn drop(&mut self) {
        CONTEXT.set(self.0);
    }
}

/// Passes the context of the current call of a method or of
/// [`Plugin::execute`](crate::Plugin::execute) to `run`: its deadline, cancellation and trace.
///
/// `None` outside of such a call, on other threads, and for a call without any of them.
///
/// ```
/// use hotbay_plugin::contract::with_context;
///
/// let is_cancelled = with_context(|context| context.is_some_and(|call| call.is_cancelled()));
/// assert!(!is_cancelled); // No call runs on this thread.
/// ```
#[cfg(feature = "contracts")]
pub fn with_context<R>(run: impl FnOnce(Option<CallContext<'_>>) -> R) -> R {
    let context = CONTEXT.get();
    // SAFETY: `in_context` set it from a reference, and resets it before that ends.
    let context = unsafe { context.as_ref() };
    run(context.map(CallContext::new))
}
