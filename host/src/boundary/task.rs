//! Calls of async methods and of async plugins: starts a task of the plugin, and receives its result.
//!
//! Besides the invariants of this folder:
//!
//! - **A1.** A task uses its instance until its completion was called. Until then, the wait guard
//!   of the call keeps the instance from being stopped.
//! - **A2.** A handle of a task is used and released under a lease, so its library is mapped.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::task::{Context, Poll};

use hotbay_plugin::abi::{RawContext, RawFault, code};
use hotbay_plugin::contract::Format;
use hotbay_plugin::contract::internal::{RawCompletion, RawTask, StartExecuteFn, StartFn};
use hotbay_plugin::{Output, OwnedPayload};
use tokio::sync::oneshot;

use super::invoke::{Instance, failure_of};
use crate::call::Failure;
use crate::panic::{catch_panic, drop_panic};
use crate::sync::{WaitGuard, lock};

/// The number of tables, so that threads seldom wait for each other.
const SHARDS: u64 = 16;

type PendingCalls = HashMap<u64, PendingCall>;

/// Calls without a result, by token. One table for all hosts, since a completion has only its token.
static PENDING: LazyLock<[Mutex<PendingCalls>; SHARDS as usize]> = LazyLock::new(Default::default);
static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

/// A call whose completion was not called yet.
struct PendingCall {
    sender: oneshot::Sender<Result<Output, Failure>>,
    /// Dropped last: A1.
    _guard: WaitGuard,
}

/// A running call of an async method. Dropping it cancels the call.
pub(crate) struct RunningTask {
    receiver: oneshot::Receiver<Result<Output, Failure>>,
    raw: RawTask,
    is_finished: bool,
}

fn shard(token: u64) -> &'static Mutex<PendingCalls> {
    &PENDING[(token % SHARDS) as usize]
}

impl Instance {
    /// Starts an async method with serialized arguments. The caller holds a lease until the task is
    /// dropped (A2).
    pub(crate) fn start_method(
        &self,
        start: StartFn,
        context: &RawContext<'_>,
        format: Format,
        arguments: Vec<u8>,
        guard: WaitGuard,
    ) -> Result<RunningTask, Failure> {
        start_with(guard, |completion| {
            self.start_task(start, context, format, arguments.into(), completion)
        })
    }

    /// Starts a call of an async plugin. The caller holds a lease until the task is dropped (A2).
    pub(crate) fn start_execute(
        &self,
        start: StartExecuteFn,
        context: &RawContext<'_>,
        input: OwnedPayload,
        guard: WaitGuard,
    ) -> Result<RunningTask, Failure> {
        start_with(guard, |completion| self.start_call(start, context, input, completion))
    }
}

/// Starts a task by `start`, and keeps `guard` until the task completes.
fn start_with(
    guard: WaitGuard,
    start: impl FnOnce(RawCompletion) -> Result<RawTask, Failure>,
) -> Result<RunningTask, Failure> {
    let (completion, receiver) = await_completion(guard);
    match start(completion) {
        Ok(raw) => Ok(RunningTask { receiver, raw, is_finished: false }),
        Err(failure) => {
            lock(shard(completion.token)).remove(&completion.token);
            Err(failure)
        }
    }
}

/// Receives the result of a call. A token that is not known, or no longer, is ignored.
unsafe extern "C" fn complete(token: u64, code: i32, output: Output, fault: RawFault) {
    // A waker of the caller or a subscriber may panic, which must not unwind into the plugin.
    let _ = catch_panic(|| drop_panic(|| finish(token, code, output, fault)));
}

fn finish(token: u64, code: i32, output: Output, fault: RawFault) {
    let pending = lock(shard(token)).remove(&token);
    let Some(PendingCall { sender, _guard }) = pending else {
        tracing::warn!(token, "a plugin completed a call that does not exist, or twice");
        return;
    };
    let result = if code == code::OK { Ok(output) } else { Err(failure_of(code, fault)) };
    // The receiver is gone if the caller dropped the call.
    let _ = sender.send(result);
}

impl Future for RunningTask {
    type Output = Result<Output, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.receiver).poll(cx);
        polled.map(|result| {
            self.is_finished = true;
            // The sender is dropped only with a result.
            result.unwrap_or(Err(Failure::Cancelled))
        })
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        let RawTask { data, cancel, release } = self.raw;
        if !self.is_finished {
            // SAFETY: A2.
            unsafe { cancel(data) };
        }
        // SAFETY: A2; released once.
        unsafe { release(data) };
    }
}

impl fmt::Debug for RunningTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningTask")
            .field("is_finished", &self.is_finished)
            .finish_non_exhaustive()
    }
}

/// Returns a completion for the plugin, and the receiver of what it is called with. `guard` is held
/// until then.
pub(super) fn await_completion(
    guard: WaitGuard,
) -> (RawCompletion, oneshot::Receiver<Result<Output, Failure>>) {
    let (sender, receiver) = oneshot::channel();
    let token = NEXT_TOKEN.fetch_add(1, Ordering::Relaxed);
    lock(shard(token)).insert(token, PendingCall { sender, _guard: guard });
    (RawCompletion { token, complete }, receiver)
}
