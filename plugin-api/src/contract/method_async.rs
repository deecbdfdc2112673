//! Async methods: the C functions that start them. No future and no waker crosses: a call starts a
//! task on the plugin's runtime, and the task calls a function of the host when it is finished.

use std::future::Future;
#[cfg(feature = "serve")]
use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::argument::{self, Arguments};
use super::codec::{CodecError, Format};
use super::method::{Failed, Method, MethodError, ServesAsync, bad, result_of};
use super::served::{ServedCall, ServedMethod};
use super::table::{RawCompletion, RawMethod, RawStr, RawTask, code};
use crate::PluginError;
use crate::context::{Bounds, CallContext, RawContext, TraceContext, in_context};
use crate::export::{Failure, catch_async, drop_after_outcome, report_failure};
use crate::payload::{Output, RawBuffer};
use crate::root::{self, RawFault, RawInstance};
#[cfg(feature = "serve")]
use crate::runtime;
use crate::runtime::Task;

/// Returns the entry of an async method that the plugin type `T` serves. `LINKED` is `true` if it is
/// compiled into the host.
pub const fn entry_async<T: Sync + 'static, M: ServesAsync<T>, const LINKED: bool>() -> RawMethod {
    RawMethod {
        name: RawStr::new(M::SHAPE.name),
        hash: M::SHAPE.hash(),
        direct: None,
        serialized: None,
        start: Some(start::<T, M>),
        open: None,
    }
}

/// Returns an async method that the plugin type `T` serves in a program: it runs on the calling
/// thread, in the plugin's runtime.
pub const fn served_async<T: Sync + 'static, M: ServesAsync<T>>() -> ServedMethod<T> {
    let call = ServedCall::Value(&call_and_wait::<T, M>);
    ServedMethod { name: M::SHAPE.name, hash: M::SHAPE.hash(), call }
}

/// Fails: only programs call methods so.
#[cfg(not(feature = "serve"))]
#[allow(clippy::extra_unused_type_parameters, reason = "the same as with `serve`")]
fn call_and_wait<T, M>(_: &T, _: &RawContext<'_>, _: Format, _: &[u8]) -> Answer {
    Err((Failed::Method, PluginError::new(501, "needs the feature `serve` of `hotbay-plugin`")))
}

#[cfg(feature = "serve")]
fn call_and_wait<T: Sync, M: ServesAsync<T>>(
    target: &T,
    context: &RawContext<'_>,
    format: Format,
    arguments: &[u8],
) -> Answer {
    let error = |code, message: String| (Failed::Method, PluginError::new(code, message));
    let runtime = runtime::handle()
        .map_err(|cause| error(503, format!("cannot start the plugin's async runtime: {cause}")))?;
    let mut call = Box::pin(async {
        let mut space = decode_arguments::<M>(format, arguments)?;
        let arguments = M::Arguments::borrow(&mut space).ok_or_else(missing_argument)?;
        let result = M::call(target, arguments).await;
        result_of(format, result.map_err(M::Error::into_plugin_error))
    });
    runtime.block_on(async {
        let mut ticks = tokio::time::interval(crate::context::CANCEL_INTERVAL);
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(result) = in_context(context, || call.as_mut().poll(cx)) {
                return Poll::Ready(result);
            }
            while ticks.poll_tick(cx).is_ready() {
                if CallContext::new(context).is_cancelled() {
                    return Poll::Ready(Err(error(499, "cancelled".to_owned())));
                }
            }
            Poll::Pending
        })
        .await;
        drop_after_outcome(call);
        outcome
    })
}

/// Deserializes the arguments of a method.
fn decode_arguments<M: Method>(
    format: Format,
    bytes: &[u8],
) -> Result<<M::Arguments as Arguments>::Space, (Failed, PluginError)> {
    argument::decode::<M::Arguments>(format, bytes, M::SHAPE.names)
        .map_err(|error| (Failed::Arguments, bad(&error)))
}

#[cold]
fn missing_argument() -> (Failed, PluginError) {
    (Failed::Arguments, bad(&CodecError::new("missing")))
}

// Invariants of the functions below, kept by the host (`boundary/task.rs`):
// T1: the instance was started by the library that owns the table, and is not stopped before the
//     completion was called.
// T2: the pointers are valid until the function returns.
// T3: a task is released once, and not used afterward.

unsafe extern "C" fn start<T: Sync + 'static, M: ServesAsync<T>>(
    instance: RawInstance,
    context: *const RawContext<'_>,
    format: u32,
    arguments: RawBuffer,
    completion: RawCompletion,
    task: *mut RawTask,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: T1: it lives longer than the future, whose completion is called when it is dropped.
    let target: &'static T = unsafe { &*instance.cast::<T>() };
    // SAFETY: T2.
    let limits = Arc::new(CallLimits::of(&CallContext::new(unsafe { &*context })));
    let call = Call::<T, M> { target, format, arguments, method: PhantomData };
    let spawned = spawn_call(Arc::clone(&limits), call.run(), completion);
    // SAFETY: T2.
    unsafe { write_task(spawned, limits, task, fault) }
}

/// Starts a call as a task, which completes when it has finished or was dropped.
pub(crate) fn spawn_call(
    limits: Arc<CallLimits>,
    future: impl Future<Output = Answer> + Send + 'static,
    completion: impl Complete,
) -> io::Result<Arc<Task>> {
    let (future, completion) = (Some(Box::pin(future)), Completion::new(completion));
    Task::spawn(Guarded { limits, future, completion })
}

/// Writes a task, or the reason that there is none, and returns the code.
///
/// # Safety
///
/// The pointers are valid to write.
pub(crate) unsafe fn write_task(
    spawned: io::Result<Arc<Task>>,
    limits: Arc<CallLimits>,
    task: *mut RawTask,
    fault: *mut RawFault,
) -> i32 {
    match spawned {
        Ok(spawned) => {
            let shared = Arc::new(SharedTask { task: spawned, limits });
            let data = Arc::into_raw(shared).cast();
            // SAFETY: this function's contract.
            unsafe { task.write(RawTask { data, cancel: cancel_task, release: release_task }) };
            root::code::OK
        }
        Err(error) => {
            let message = format!("cannot start the plugin's async runtime: {error}");
            let failure = Failure::Error(PluginError::new(503, message).retryable());
            // SAFETY: this function's contract.
            unsafe { report_failure(failure, fault) }
        }
    }
}

/// A task as the host holds it.
struct SharedTask {
    task: Arc<Task>,
    limits: Arc<CallLimits>,
}

unsafe extern "C" fn cancel_task(data: *const ()) {
    // SAFETY: T3 (`start` made it of an `Arc`).
    let shared = unsafe { &*data.cast::<SharedTask>() };
    shared.limits.cancel();
    Arc::clone(&shared.task).cancel();
}

unsafe extern "C" fn release_task(data: *const ()) {
    // SAFETY: T3.
    drop(unsafe { Arc::from_raw(data.cast::<SharedTask>()) });
}

/// A call that runs.
struct Call<T: 'static, M> {
    target: &'static T,
    format: u32,
    arguments: RawBuffer,
    method: PhantomData<fn() -> M>,
}

type Answer = Result<Output, (Failed, PluginError)>;

impl<T: Sync, M: ServesAsync<T>> Call<T, M> {
    async fn run(self) -> Answer {
        let format = Format::of_code(self.format).ok_or_else(|| {
            (Failed::Arguments, bad(&CodecError::new("unknown serialization format")))
        })?;
        let mut space = decode_arguments::<M>(format, self.arguments.as_bytes())?;
        drop(self.arguments);
        let arguments = M::Arguments::borrow(&mut space).ok_or_else(missing_argument)?;
        let result = M::call(self.target, arguments).await;
        result_of(format, result.map_err(M::Error::into_plugin_error))
    }
}

/// A future that catches panics, and calls the completion when it is finished or dropped.
struct Guarded<F, C: Complete> {
    limits: Arc<CallLimits>,
    /// Dropped before the completion is called: it uses the instance (T1). `None` once it is ready.
    future: Option<Pin<Box<F>>>,
    completion: Completion<C>,
}

// Only what the box holds is pinned.
impl<F, C: Complete> Unpin for Guarded<F, C> {}

impl<F: Future<Output = Answer>, C: Complete> Future for Guarded<F, C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else { return Poll::Ready(()) };
        let context = this.limits.context();
        let polled = catch_async(|| in_context(&context, || future.as_mut().poll(cx)));
        let (code, output, fault) = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(output))) => (root::code::OK, output, RawFault::empty()),
            Ok(Poll::Ready(Err((failed, error)))) => {
                (failed.code(), Output::default(), RawFault::from_error(&error))
            }
            Err(fault) => (root::code::PANIC, Output::default(), RawFault::from_panic(&fault)),
        };
        drop_after_outcome(this.future.take());
        this.completion.complete(code, output, fault);
        Poll::Ready(())
    }
}

/// Takes the outcome of a task: the output is valid if the code says so, and the fault otherwise.
pub(crate) trait Complete: Send + 'static {
    fn complete(self, code: i32, output: Output, fault: RawFault);
}

impl Complete for RawCompletion {
    fn complete(self, code: i32, output: Output, fault: RawFault) {
        // SAFETY: the function takes both values, and the token is that of this call.
        unsafe { (self.complete)(self.token, code, output, fault) };
    }
}

/// Completes a call once.
pub(super) struct Completion<C: Complete = RawCompletion>(Option<C>);

impl<C: Complete> Completion<C> {
    pub(super) fn new(completion: C) -> Self {
        Self(Some(completion))
    }

    pub(super) fn complete(&mut self, code: i32, output: Output, fault: RawFault) {
        if let Some(completion) = self.0.take() {
            completion.complete(code, output, fault);
        }
    }
}

impl<C: Complete> Drop for Completion<C> {
    fn drop(&mut self) {
        self.complete(code::CANCELLED, Output::default(), RawFault::empty());
    }
}

/// The limits of a call, as its task queries them.
pub(crate) struct CallLimits {
    call_id: u64,
    trace: Option<TraceContext>,
    deadline: Option<Instant>,
    pub(super) is_cancelled: AtomicBool,
}

impl CallLimits {
    pub(crate) fn of(context: &CallContext<'_>) -> Self {
        // An instant that cannot be represented is never reached.
        let deadline = context.remaining().and_then(|left| Instant::now().checked_add(left));
        Self {
            call_id: context.call_id(),
            trace: context.trace(),
            deadline,
            is_cancelled: AtomicBool::new(false),
        }
    }

    /// Marks the call as cancelled, for the plugin to see.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn context(&self) -> RawContext<'_> {
        RawContext::new(self.call_id).with_trace(self.trace.as_ref()).with_bounds(self)
    }
}

impl Bounds for CallLimits {
    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
            || self.remaining().is_some_and(|left| left.is_zero())
    }

    fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }
}
