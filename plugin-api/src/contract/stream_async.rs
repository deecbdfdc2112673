//! Streams that are polled on the plugin's runtime. Each request of the host is a task, which makes
//! items until it would have to wait or all requested ones are made, and then passes them to the
//! host's completion.

use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::method_async::{CallLimits, Completion};
use super::stream::PolledItems;
use super::table::{RawCompletion, RawStream, batch};
use crate::context::in_context;
use crate::context::{CallContext, RawContext};
use crate::export::{catch_async, drop_after_outcome};
use crate::payload::Output;
use crate::root::{self, RawFault};
use crate::runtime::Task;

/// Size at which a task passes its items to the host, though more were requested.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// A stream as the host holds it.
struct PolledStream {
    limits: CallLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` while a task makes items, and after the last one.
    items: Option<OwnedItems>,
    /// The failure that follows the items that were passed to the host.
    failure: Option<(i32, RawFault)>,
    /// The last task.
    task: Option<Arc<Task>>,
}

/// Returns a stream for the host.
pub(super) fn raw(items: PolledItems, context: &RawContext<'_>) -> RawStream {
    let limits = CallLimits::of(&CallContext::new(context));
    let state = State { items: Some(OwnedItems(items)), ..State::default() }.into();
    let stream = Arc::new(PolledStream { limits, state });
    RawStream {
        data: Arc::into_raw(stream).cast(),
        next: None,
        request: Some(request),
        cancel,
        release,
    }
}

// The invariants are those of `method_stream.rs`.

unsafe extern "C" fn request(data: *const (), max_items: u32, completion: RawCompletion) {
    // SAFETY: S1 (`raw` made it of an `Arc`, whose count stays as it is).
    let stream = ManuallyDrop::new(unsafe { Arc::from_raw(data.cast::<PolledStream>()) });
    let mut completion = Completion::new(completion);
    let (items, failure) = {
        let mut state = stream.lock();
        (state.items.take(), state.failure.take())
    };
    if let Some((code, fault)) = failure {
        return completion.complete(code, Output::default(), fault);
    }
    let left = max_items;
    let making =
        Making { items, stream: Arc::clone(&stream), left, bytes: vec![batch::MORE], completion };
    // If the runtime cannot be made, the future is dropped, which completes the request.
    if let Ok(task) = Task::spawn(making) {
        stream.lock().task = Some(task);
    }
}

unsafe extern "C" fn cancel(data: *const ()) {
    // SAFETY: S1.
    let stream = unsafe { &*data.cast::<PolledStream>() };
    stream.limits.is_cancelled.store(true, Ordering::Relaxed);
    let task = stream.lock().task.take();
    if let Some(task) = task {
        task.cancel();
    }
}

unsafe extern "C" fn release(data: *const (), _: *mut RawFault) -> i32 {
    // SAFETY: S2.
    let stream = unsafe { Arc::from_raw(data.cast::<PolledStream>()) };
    let items = stream.lock().items.take();
    if let Some(items) = items {
        // They may use the runtime when they are dropped.
        let _ = Task::spawn(async move { drop(items) });
    }
    root::code::OK
}

/// Items of a plugin, which may panic when they are dropped, also in a task that never ran and is
/// dropped by a function that the host calls.
struct OwnedItems(PolledItems);

impl Drop for OwnedItems {
    fn drop(&mut self) {
        let items = std::mem::replace(&mut self.0, Box::new(|_| Poll::Ready(None)));
        drop_after_outcome(items);
    }
}

/// Makes items for one request.
struct Making {
    /// Dropped before the completion is called.
    items: Option<OwnedItems>,
    stream: Arc<PolledStream>,
    left: u32,
    bytes: Vec<u8>,
    completion: Completion,
}

impl Making {
    /// Passes the items to the host; the failure too, if there are none.
    fn complete(&mut self, failure: Option<(i32, RawFault)>) {
        if failure.is_some() || self.bytes[0] == batch::LAST {
            self.items = None;
        }
        let is_empty = self.bytes.len() == 1 && self.bytes[0] == batch::MORE;
        match failure {
            Some((code, fault)) if is_empty => {
                return self.completion.complete(code, Output::default(), fault);
            }
            failure => {
                let mut state = self.stream.lock();
                state.failure = failure;
                if !self.stream.limits.is_cancelled.load(Ordering::Relaxed) {
                    state.items = self.items.take();
                }
            }
        }
        // Cancelled: the host counts on it that they are dropped before the completion.
        self.items = None;
        let output = Output::bytes(std::mem::take(&mut self.bytes));
        self.completion.complete(root::code::OK, output, RawFault::empty());
    }
}

impl Future for Making {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let stream = Arc::clone(&this.stream);
        let context = stream.limits.context();
        while this.left > 0 && this.bytes.len() < MAX_BATCH_BYTES {
            // Cancelled meanwhile; the completion reports it.
            let Some(OwnedItems(items)) = &mut this.items else { return Poll::Ready(()) };
            match catch_async(|| in_context(&context, || items(cx))) {
                Ok(Poll::Pending) if this.bytes.len() == 1 => return Poll::Pending,
                Ok(Poll::Pending) => break,
                Ok(Poll::Ready(Some(Ok(item)))) => {
                    batch::push(&mut this.bytes, item.as_bytes());
                    this.left -= 1;
                }
                Ok(Poll::Ready(None)) => {
                    this.bytes[0] = batch::LAST;
                    break;
                }
                Ok(Poll::Ready(Some(Err((failed, error))))) => {
                    let failure = (failed.code(), RawFault::from_error(&error));
                    this.complete(Some(failure));
                    return Poll::Ready(());
                }
                Err(fault) => {
                    this.complete(Some((root::code::PANIC, RawFault::from_panic(&fault))));
                    return Poll::Ready(());
                }
            }
        }
        this.complete(None);
        Poll::Ready(())
    }
}

impl PolledStream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
