//! Calls of async methods that plugins make. No future and no waker crosses: the future of such a call
//! runs on the threads that wake it, and then calls a function of the plugin's library.
//!
//! The function is called before the plugin's registration ends, so its library is mapped.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};

use hotbay_plugin::contract::internal::{CallFailure, CancelCall, Completer};
use hotbay_plugin::contract::{CallError, CallErrorKind};

use crate::call::OutgoingFuture;
use crate::panic::catch_panic;
use crate::sync::lock;

/// Maximum number of calls of one plugin that were started and are not completed.
const MAX_STARTED: usize = 4096;

/// The calls of one plugin that are not completed.
#[derive(Default)]
pub(super) struct StartedCalls(Mutex<Started>);

#[derive(Default)]
struct Started {
    is_closed: bool,
    next: u64,
    by_number: HashMap<u64, Arc<StartedCall>>,
}

/// A call that runs.
struct StartedCall {
    number: u64,
    calls: Weak<StartedCalls>,
    /// Locked while the plugin's function is called.
    completer: Mutex<Option<Completer>>,
    future: Mutex<Option<OutgoingFuture>>,
    /// The number of wake-ups since a thread began to poll; zero if none polls.
    wakes: AtomicU64,
}

/// The handle of a call, for its plugin.
pub(super) struct StartedHandle(Weak<StartedCall>);

impl StartedCalls {
    /// Runs a call until its first wait, and then on the threads that wake it.
    pub(super) fn start(
        self: &Arc<Self>,
        completer: Completer,
        call: impl FnOnce() -> Result<OutgoingFuture, CallFailure>,
    ) -> StartedHandle {
        let mut started = lock(&self.0);
        let refused = if started.is_closed {
            Some(closed())
        } else if started.by_number.len() >= MAX_STARTED {
            let message =
                format!("more than {MAX_STARTED} calls of the plugin wait for their results");
            let hint = "start fewer calls at once";
            Some(CallError::new(CallErrorKind::Overloaded, message).with_hint(hint))
        } else {
            None
        };
        if let Some(error) = refused {
            drop(started);
            completer.complete(Err(error.into()));
            return StartedHandle(Weak::new());
        }
        let number = started.next;
        started.next += 1;
        let call_state = Arc::new(StartedCall {
            number,
            calls: Arc::downgrade(self),
            completer: Mutex::new(Some(completer)),
            future: Mutex::default(),
            wakes: AtomicU64::new(0),
        });
        started.by_number.insert(number, Arc::clone(&call_state));
        drop(started);
        let handle = StartedHandle(Arc::downgrade(&call_state));
        match catch_panic(call).unwrap_or_else(|message| Err(panicked(message))) {
            Ok(future) => {
                *lock(&call_state.future) = Some(future);
                // Otherwise `close` completed it, perhaps before there was a future to drop.
                if call_state.is_pending() {
                    call_state.run();
                } else {
                    call_state.drop_future();
                }
            }
            Err(failure) => call_state.complete(Err(failure)),
        }
        handle
    }

    /// Completes all calls as cancelled, and refuses new ones. No function of the plugin runs
    /// afterward.
    pub(super) fn close(&self) {
        let calls = {
            let mut started = lock(&self.0);
            started.is_closed = true;
            std::mem::take(&mut started.by_number)
        };
        for call in calls.into_values() {
            // Waits for a thread that calls the plugin's function.
            let completer = lock(&call.completer).take();
            if let Some(completer) = completer {
                completer.complete(Err(closed().into()));
            }
            call.drop_future();
        }
    }
}

impl StartedCall {
    /// Polls the future, unless another thread does, which then polls it again.
    fn run(self: &Arc<Self>) {
        if self.wakes.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let waker = Waker::from(Arc::clone(self));
        loop {
            let seen = self.wakes.load(Ordering::Acquire);
            let mut slot = lock(&self.future);
            if let Some(future) = &mut *slot {
                let polled = catch_panic(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
                let polled = polled.unwrap_or_else(|message| Poll::Ready(Err(panicked(message))));
                if let Poll::Ready(result) = polled {
                    let future = slot.take();
                    drop(slot);
                    let _ = catch_panic(|| drop(future));
                    self.complete(result);
                }
            }
            if self.wakes.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    /// Calls the plugin's function, unless it was called or is being called.
    fn complete(&self, result: Result<hotbay_plugin::Output, CallFailure>) {
        let Ok(mut slot) = self.completer.try_lock() else { return };
        let Some(completer) = slot.take() else { return };
        completer.complete(result);
        drop(slot);
        // Until now, `close` finds the call and waits for the function.
        if let Some(calls) = self.calls.upgrade() {
            let ended = lock(&calls.0).by_number.remove(&self.number);
            drop(ended);
        }
    }

    /// Returns whether the plugin's function was not called and is not being called.
    fn is_pending(&self) -> bool {
        self.completer.try_lock().is_ok_and(|completer| completer.is_some())
    }

    fn drop_future(&self) {
        let future = lock(&self.future).take();
        let _ = catch_panic(|| drop(future));
    }
}

impl Wake for StartedCall {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

impl CancelCall for StartedHandle {
    fn cancel(&self) {
        let Some(call) = self.0.upgrade() else { return };
        call.drop_future();
        let error = CallError::new(CallErrorKind::Cancelled, "the call was cancelled");
        call.complete(Err(error.into()));
    }
}

#[cold]
pub(super) fn closed() -> CallError {
    CallError::new(CallErrorKind::Unavailable, "the plugin was stopped and cannot call contracts")
}

#[cold]
fn panicked(message: String) -> CallFailure {
    CallError::new(CallErrorKind::Other, format!("the host panicked: {message}")).into()
}

impl fmt::Debug for StartedCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartedCalls").finish_non_exhaustive()
    }
}
