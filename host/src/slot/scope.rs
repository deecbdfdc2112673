//! A call on its way: what it carries, the services that it passes through, and its place in a
//! batch.

use std::sync::Mutex;

use tokio::sync::oneshot;

use super::health::CallOrigin;
use crate::call::{CallState, Reply, ReplySlot, Request};
use crate::error::{Error, ErrorKind};
use crate::generation::{CallPolicy, InstanceRef, next_call_id};
use crate::sync::lock;

/// A request on the call path, and the lease it runs under, if it has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallScope<'v> {
    pub(crate) request: &'v Request<'v>,
    pub(crate) lease: Option<&'v InstanceRef>,
    /// State shared with the caller, if others may complete the call.
    pub(crate) state: Option<&'v CallState>,
    /// The policy that the call was checked against, if it was.
    pub(crate) policy: Option<&'v CallPolicy>,
    pub(crate) method: Method,
    /// Its slot in a batch, if it is part of one.
    pub(crate) batch_slot: Option<&'v BatchSlot<'v>>,
    /// Unique in this process.
    pub(crate) call_id: u64,
}

impl<'v> CallScope<'v> {
    /// Creates the scope of a call on the caller's thread, under the lease `pin` if there is one.
    #[inline]
    pub(crate) fn inline(
        request: &'v Request<'v>,
        pin: Option<&'v InstanceRef>,
        call_id: u64,
    ) -> Self {
        let method = if pin.is_some() { Method::Pinned } else { Method::Call };
        Self { request, lease: pin, state: None, policy: None, method, batch_slot: None, call_id }
    }

    /// Creates the scope of a call on a worker that holds a lease.
    #[inline]
    pub(crate) fn pooled(
        request: &'v Request<'v>,
        instance: &'v InstanceRef,
        state: &'v CallState,
    ) -> Self {
        let scope = Self::inline(request, Some(instance), next_call_id());
        Self { state: Some(state), method: Method::Execute, ..scope }
    }

    /// Returns the policy that the call was checked against, or that of its lease.
    pub(crate) fn leased_policy(&self) -> Option<&'v CallPolicy> {
        self.policy.or_else(|| self.lease.map(|instance| &*instance.generation().policy))
    }

    /// Returns the scope of the call after it was checked against `policy`.
    pub(crate) fn checked_against(&self, policy: &'v CallPolicy) -> Self {
        Self { policy: Some(policy), ..*self }
    }

    pub(super) fn origin(&self) -> CallOrigin {
        if self.lease.is_some() { CallOrigin::Admitted } else { CallOrigin::Caller }
    }
}

/// The method by which a call is made.
///
/// ```
/// use hotbay::{Call, Error, Host, Layer, Method, Next, Output, Reply, Request};
///
/// struct DirectOnly;
///
/// impl Layer for DirectOnly {
///     fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
///         assert_eq!(call.method(), Method::Call);
///         next.call(call)
///     }
/// }
///
/// let host = Host::builder()
///     .layer(DirectOnly)
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// assert_eq!(host.plugin("echo")?.call(Request::text("hello"))?.as_text()?, "hello");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// On the caller's thread: [`PluginHandle::call`](crate::PluginHandle::call).
    Call,
    /// On the caller's thread, on a pinned generation: [`Pinned::call`](crate::Pinned::call).
    Pinned,
    /// On a worker: a thread of the plugin, or a task of the caller's runtime or the host's if the
    /// plugin is a process. See [`PluginHandle::execute`](crate::PluginHandle::execute).
    Execute,
}

/// A service of the call path: a layer, or the slot at its end.
pub(crate) trait SyncService: Send + Sync {
    /// Makes the call on this thread and fills `reply`.
    fn call(&self, scope: &CallScope<'_>, reply: &mut ReplySlot) -> Result<(), Error>;
}

/// A service of the call path that can run as a future.
pub(crate) trait AsyncService: SyncService {
    /// Makes the call and fills `reply`. The scope must hold a lease.
    fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut ReplySlot,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'a;
}

type Answer = Result<Reply, Error>;

/// The calls of a batch that reached the end of the call path.
#[derive(Debug, Default)]
pub(crate) struct BatchCollector(Mutex<Vec<BatchedCall>>);

/// A call of a batch.
#[derive(Debug)]
pub(crate) struct BatchedCall {
    /// Its position in the batch.
    pub(crate) index: usize,
    pub(crate) call_id: u64,
    reply: oneshot::Sender<Answer>,
}

/// The position of one call in a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSlot<'g> {
    collector: &'g BatchCollector,
    index: usize,
}

impl BatchCollector {
    /// Returns the slot of the call at `index`.
    pub(crate) fn slot(&self, index: usize) -> BatchSlot<'_> {
        BatchSlot { collector: self, index }
    }

    /// Returns the number of collected calls.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Takes all collected calls, to be sent together.
    pub(crate) fn take(&self) -> Vec<BatchedCall> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl BatchSlot<'_> {
    /// Waits for the result of the call.
    pub(super) async fn wait(self, call_id: u64) -> Answer {
        let (sender, receiver) = oneshot::channel();
        lock(&self.collector.0).push(BatchedCall { index: self.index, call_id, reply: sender });
        receiver.await.unwrap_or_else(|_| {
            let message = "answered a batch of calls without a result for this call";
            Err(Error::new(ErrorKind::Protocol, message))
        })
    }
}

impl BatchedCall {
    /// Completes the call with its result.
    pub(crate) fn complete(self, answer: Answer) {
        // The receiver is gone if the caller cancelled the call.
        let _ = self.reply.send(answer);
    }
}
