//! Typed calls: the transports of the proxies of contracts. A call of a method goes through the same
//! middleware as a call with bytes, and takes the brief path under the same conditions.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use hotbay_plugin::ContentType;
use hotbay_plugin::TraceContext;
use hotbay_plugin::contract::internal::{
    ArgumentTypes, HostTransport, Method, MethodCall, OwnedArguments, TypedCall, WithOptions,
    decode_result, encode_arguments,
};
use hotbay_plugin::contract::{
    CallError, CallErrorKind, CodecError, Contract, Format, Stream, Transport,
};
use tokio_util::sync::CancellationToken;

use super::stream::{RunsOn, open_stream};
use super::task::{CountOnDrop, TaskCall};
use super::{Execute, Inner};
use crate::call::{Chain, MethodArguments, MethodRequest, Reply, ReplySlot, Request};
use crate::contracts::{FunctionRange, KnownContract};
use crate::error::{Error, ErrorKind, bug};
use crate::generation::{BriefFailure, BriefTask, InstanceRef, next_call_id};
use crate::id::{GenerationId, PluginName};
use crate::slot::{Admission, CallScope, InstanceLease};
use crate::sync::{SameProcess, Shard, block_on, deadline_in, owned_shard, shard};

/// Calls the current generation of a plugin on the caller's thread.
///
/// Created by [`Host::contract`](crate::Host::contract).
#[derive(Clone)]
pub struct DirectTransport(Target);

/// Calls one generation of a plugin on the caller's thread.
///
/// Created by [`Proxy::pin`](hotbay_plugin::contract::Proxy::pin).
#[derive(Clone)]
pub struct PinnedTransport {
    target: Target,
    instance: Arc<InstanceRef>,
}

/// Calls a plugin on its workers, and blocks until the call returns or its deadline passes.
///
/// Created by [`Proxy::pooled`](hotbay_plugin::contract::Proxy::pooled).
#[derive(Clone)]
pub struct PooledTransport(Target);

/// A contract of a plugin, and the options of its calls.
#[derive(Clone)]
struct Target {
    inner: Arc<Inner>,
    contract: Arc<KnownContract>,
    /// A copy of the contract's; `None` if there are options.
    functions: Option<FunctionRange>,
    options: Option<Arc<CallOptions>>,
}

/// Options of typed calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    /// Precedes the timeout.
    pub(crate) deadline: Option<Instant>,
    pub(crate) token: Option<CancellationToken>,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) is_idempotent: bool,
}

impl CallOptions {
    /// Returns the deadline of a call that starts now.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.or_else(|| self.timeout.map(deadline_in))
    }
}

/// The reply to a call of a method that did not write its result.
struct Serialized(Reply);

impl AsRef<[u8]> for Serialized {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Target {
    /// Calls a method on this thread. A call without options that needs no middleware takes the brief
    /// path; see `brief.rs`.
    ///
    /// Always inlined, so that arguments and result are in the caller's registers and frame.
    #[inline(always)]
    fn call<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
        pin: Option<&InstanceRef>,
    ) -> Result<M::Output, CallError> {
        let call = TypedCall::<M>::new(arguments)?;
        let lowered = call.lower();
        let call_id = next_call_id();
        if M::SHAPE.permission.is_none()
            && let Some(functions) = self.functions
            && self.inner.is_brief(call_id)
            // The few threads that share a shard take the other path; so does the first call of a thread.
            && let Some(shard) = owned_shard()
        {
            if let Some(pin) = pin {
                if pin.generation().is_current()
                    && let Some(function) = pin.function(functions, M::INDEX)
                {
                    let answer = pin.call_method_brief(function, lowered);
                    self.inner.slot.count_call(shard);
                    return match answer {
                        Ok(result) => result.into_output(),
                        Err(failure) => self.fail(&call, Some(pin), pin.error_of(failure)),
                    };
                }
            } else if let Some(lease) = self.inner.slot.try_current(shard)
                && let Some(function) = lease.function(functions, M::INDEX)
            {
                let answer = lease.call_method_brief(function, lowered);
                return match answer {
                    // Read under the lease: it may be in memory of the plugin.
                    Ok(result) => match result.into_output() {
                        Ok(output) => {
                            drop(lease);
                            self.inner.slot.count_call(shard);
                            Ok(output)
                        }
                        // Apart, so that an output stays in registers meanwhile.
                        Err(error) => Err(self.end_failed(lease, shard, error)),
                    },
                    Err(failure) => self.fail_leased(&call, lease, failure),
                };
            }
        }
        // Not returned, so that the result of the brief path needs no memory.
        let mut output = None;
        self.call_in_full(&call, pin, call_id, &mut output)?;
        output.ok_or_else(no_output)
    }

    /// Returns the request of a call.
    fn request<'a>(&self, method: usize, arguments: MethodArguments<'a>) -> Request<'a> {
        let contract = Arc::clone(&self.contract);
        let method = MethodRequest { contract, index: method, arguments, stream: None };
        let mut request = Request::of_method(method);
        let Some(options) = &self.options else { return request };
        if let Some(deadline) = options.deadline() {
            request = request.with_deadline(deadline);
        }
        if options.is_idempotent {
            request = request.with_idempotent(true);
        }
        if let Some(token) = &options.token {
            request = request.with_cancellation_token(token.clone());
        }
        match options.trace {
            Some(trace) => request.with_trace(trace),
            None => request,
        }
    }

    /// Returns the request of a call that does not run on this thread.
    fn owned_request<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Request<'static>, CallError> {
        let arguments = MethodArguments::Owned(OwnedArguments::new::<M>(arguments)?);
        Ok(self.request(M::INDEX, arguments))
    }

    fn with_options(mut self, set: impl FnOnce(&mut CallOptions)) -> Self {
        set(Arc::make_mut(self.options.get_or_insert_default()));
        self.functions = None;
        self
    }

    /// Calls a method through the middleware.
    #[cold]
    #[inline(never)]
    fn call_in_full<M: Method>(
        &self,
        call: &TypedCall<'_, '_, M>,
        pin: Option<&InstanceRef>,
        call_id: u64,
        output: &mut Option<M::Output>,
    ) -> Result<(), CallError> {
        let outcome = call.erased(|call| self.call_erased(M::INDEX, call, pin, call_id));
        *output = Some(outcome.map_err(|error| self.invalid_result::<M>(error))?);
        Ok(())
    }

    /// Calls a method through the middleware; returns the reply if the result was not written.
    fn call_erased(
        &self,
        method: usize,
        call: &MethodCall<'_>,
        pin: Option<&InstanceRef>,
        call_id: u64,
    ) -> Answer {
        let request = self.request(method, MethodArguments::Borrowed(call));
        let mut reply = ReplySlot::new();
        self.inner.call_in_full(&request, pin, call_id, &mut reply)?;
        if call.is_read() && reply.as_bytes().is_empty() {
            return Ok(None);
        }
        Ok(Some(serialized(reply.take())))
    }

    /// Deserializes the result of a call.
    fn result_of<M: Method>(&self, reply: Reply) -> Result<M::Output, CallError> {
        let (format, reply) = serialized(reply);
        decode_result::<M>(format, reply.as_ref()).map_err(|error| self.invalid_result::<M>(error))
    }

    /// Adds the plugin to the error of a result that cannot be read; returns another error as it is.
    #[cold]
    fn invalid_result<M: Method>(&self, error: CallError) -> CallError {
        let source = std::error::Error::source(&error);
        match (error.kind(), error.shared_source()) {
            (CallErrorKind::InvalidOutput, Some(cause))
                if source.is_some_and(|source| source.is::<CodecError>()) =>
            {
                let method = M::SHAPE.name;
                let message =
                    format!("returned a result of method `{method}` that does not match its type");
                let error = Error::new(ErrorKind::InvalidOutput, message);
                error.of(&self.inner.slot.name).caused_by_shared(cause).into()
            }
            _ => error,
        }
    }

    /// Ends the lease of a call whose method returned an error, and counts the call.
    #[cold]
    #[inline(never)]
    fn end_failed(&self, lease: InstanceLease<'_>, shard: Shard, error: CallError) -> CallError {
        drop(lease);
        self.inner.slot.count_call(shard);
        error
    }

    /// Counts a call that failed, and returns its error.
    #[cold]
    #[inline(never)]
    fn fail_leased<M: Method>(
        &self,
        call: &TypedCall<'_, '_, M>,
        lease: InstanceLease<'_>,
        failure: BriefFailure,
    ) -> Result<M::Output, CallError> {
        let error = lease.error_of(failure);
        drop(lease);
        self.inner.slot.count_call(shard());
        self.fail(call, None, error)
    }

    /// Records the failure of a call.
    #[cold]
    #[inline(never)]
    fn fail<M: Method>(
        &self,
        call: &TypedCall<'_, '_, M>,
        pin: Option<&InstanceRef>,
        error: Error,
    ) -> Result<M::Output, CallError> {
        call.erased(|call| {
            let request = self.request(M::INDEX, MethodArguments::Borrowed(call));
            let scope = CallScope::inline(&request, pin, next_call_id());
            self.inner.slot.counters.count_error(&scope, &error);
            let outcome = Err(error);
            self.inner.slot.record_outcome(Admission::Normal, &scope, &outcome);
            outcome.map_or_else(|error| Err(error.into()), |()| Answer::Ok(None))
        })
    }
}

type Answer = Result<Option<(Format, Serialized)>, CallError>;

#[cold]
fn no_output() -> CallError {
    bug!("a call succeeded without an output").into()
}

/// Returns a reply with the format of its bytes.
#[cold]
fn serialized(reply: Reply) -> (Format, Serialized) {
    let is_json = reply.content_type() == ContentType::JSON;
    let format = if is_json { Format::Json } else { Format::Postcard };
    (format, Serialized(reply))
}

impl Transport for DirectTransport {
    #[inline(always)]
    fn call<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        self.0.call::<M>(arguments, None)
    }

    async fn call_async<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        self.0.call_method_async::<M>(arguments, None).await
    }

    fn call_stream<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError> {
        self.0.call_stream::<M>(arguments, None)
    }
}

impl Target {
    /// Calls an async method. A call without options that needs no middleware only waits for its task.
    async fn call_method_async<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
        pin: Option<&Arc<InstanceRef>>,
    ) -> Result<M::Output, CallError> {
        let call_id = next_call_id();
        let slot = &self.inner.slot;
        let Some(started) = self.start_brief::<M>(arguments, pin, call_id) else {
            let request = self.owned_request::<M>(arguments)?;
            return self.result_of::<M>(self.call_async(request, pin).await?);
        };
        let outcome = match started {
            Ok(task) => {
                let mut task = SameProcess::of(self.inner.process, task);
                let mut counted = CountOnDrop(Some(slot));
                let outcome = {
                    let mut output = pin!(task.output(self.inner.process));
                    poll_fn(|cx| match self.inner.check_process() {
                        Ok(()) => output.as_mut().poll(cx),
                        Err(forked) => Poll::Ready(Err(forked)),
                    })
                    .await
                };
                counted.0 = None;
                if let Err(error) = &outcome
                    && error.kind() == ErrorKind::Forked
                {
                    // The counters are the parent's.
                    return Err(error.cloned().into());
                }
                outcome.map(|reply| (task.format(), reply))
            }
            Err(error) => Err(error),
        };
        slot.count_call(shard());
        match outcome {
            Ok((format, reply)) => decode_result::<M>(format, reply.as_bytes())
                .map_err(|error| self.invalid_result::<M>(error)),
            Err(error) => self.fail(&TypedCall::<M>::new(arguments)?, pin.map(Arc::as_ref), error),
        }
    }

    /// Starts the task of a call without options. Returns `None` if it is another call.
    fn start_brief<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
        pin: Option<&Arc<InstanceRef>>,
        call_id: u64,
    ) -> Option<Result<BriefTask, Error>> {
        let slot = &self.inner.slot;
        let is_brief = M::SHAPE.permission.is_none()
            && self.options.is_none()
            && self.inner.is_brief(call_id)
            && slot.supports_async()
            && !Chain::may_be_current();
        if !is_brief {
            return None;
        }
        let instance = match pin {
            Some(pin) if pin.generation().is_current() => Arc::clone(pin),
            Some(_) => return None,
            None => slot.try_pin().ok()?,
        };
        let encode = |format| encode_arguments::<M>(format, arguments);
        BriefTask::start(instance, &self.contract, M::INDEX, call_id, encode)
    }

    /// Calls an async method: as a task of the plugin, which this future waits for; or else on a
    /// worker.
    async fn call_async(
        &self,
        request: Request<'static>,
        pin: Option<&Arc<InstanceRef>>,
    ) -> Result<Reply, Error> {
        let (inner, slot) = (&self.inner, &self.inner.slot);
        let mut request = request;
        request.join_chain();
        inner.check_process()?;
        let instance = match pin {
            Some(pin) if !pin.generation().is_current() => return Err(inner.not_current(pin)),
            Some(pin) => Some(Arc::clone(pin)),
            None => slot.try_pin().ok(),
        };
        let is_task =
            |instance: &Arc<InstanceRef>| slot.supports_async() && instance.is_task(&request);
        match instance.filter(is_task) {
            Some(instance) => {
                let mut call = TaskCall::of(inner, request, instance);
                poll_fn(|cx| call.poll(cx)).await
            }
            // A layer is synchronous, or the plugin is paused, or a process.
            None => Execute::new(inner, request).await,
        }
    }
}

impl Transport for PinnedTransport {
    #[inline(always)]
    fn call<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        self.target.call::<M>(arguments, Some(&self.instance))
    }

    async fn call_async<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        self.target.call_method_async::<M>(arguments, Some(&self.instance)).await
    }

    fn call_stream<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError> {
        self.target.call_stream::<M>(arguments, Some(&self.instance))
    }
}

impl Transport for PooledTransport {
    fn call<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        let request = self.0.owned_request::<M>(arguments)?;
        self.0.result_of::<M>(block_on(pin!(Execute::new(&self.0.inner, request)))?)
    }

    async fn call_async<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        let request = self.0.owned_request::<M>(arguments)?;
        self.0.result_of::<M>(Execute::new(&self.0.inner, request).await?)
    }

    fn call_stream<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError> {
        let (request, inner) = (self.0.owned_request::<M>(arguments)?, &self.0.inner);
        let call = |request| block_on(pin!(Execute::new(inner, request))).map(drop);
        let stream = open_stream(inner, request, RunsOn::Workers, call)?;
        Ok(Stream::of_source(Box::new(stream)))
    }
}

impl HostTransport for DirectTransport {
    type Pinned = PinnedTransport;
    type Pooled = PooledTransport;
    type Error = Error;

    fn pin(&self) -> Result<PinnedTransport, Error> {
        let target = self.0.clone();
        target.inner.check_process()?;
        let instance = target.inner.slot.pin()?;
        instance.check_contract(&target.contract)?;
        Ok(PinnedTransport { target, instance })
    }

    fn pooled(&self) -> PooledTransport {
        PooledTransport(self.0.clone())
    }
}

macro_rules! with_options {
    ($($transport:ident),*) => {$(
        impl WithOptions for $transport {
            type Token = CancellationToken;

            fn with_timeout(self, timeout: Duration) -> Self {
                Self(self.0.with_options(|options| options.timeout = Some(timeout)))
            }

            fn with_cancellation_token(self, token: CancellationToken) -> Self {
                Self(self.0.with_options(|options| options.token = Some(token)))
            }

            fn with_trace(self, trace: TraceContext) -> Self {
                Self(self.0.with_options(|options| options.trace = Some(trace)))
            }
        }
    )*};
}

with_options!(DirectTransport, PooledTransport);

impl DirectTransport {
    pub(super) fn new(
        inner: &Arc<Inner>,
        contract: Arc<KnownContract>,
        options: Option<Arc<CallOptions>>,
    ) -> Self {
        // A call with options never takes the brief path.
        let functions = contract.functions.filter(|_| options.is_none());
        Self(Target { inner: Arc::clone(inner), contract, functions, options })
    }

    /// Returns the plugin's name.
    pub fn plugin(&self) -> &PluginName {
        &self.0.inner.slot.name
    }
}

impl Target {
    /// Opens the stream of a method on this thread.
    fn call_stream<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
        pin: Option<&InstanceRef>,
    ) -> Result<Stream<M::Output>, CallError> {
        let (request, inner) = (self.owned_request::<M>(arguments)?, &self.inner);
        let call = |request| {
            let mut reply = ReplySlot::new();
            inner.call_in_full(&request, pin, next_call_id(), &mut reply)
        };
        let stream = open_stream(inner, request, RunsOn::CallersThread, call)?;
        Ok(Stream::of_source(Box::new(stream)))
    }
}

impl PinnedTransport {
    /// Returns the pinned generation.
    pub fn generation(&self) -> GenerationId {
        self.instance.generation().id
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("plugin", &self.inner.slot.name)
            .field("contract", &self.contract.text.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DirectTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DirectTransport").field(&self.0).finish()
    }
}

impl fmt::Debug for PinnedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedTransport").field(&self.target).finish()
    }
}

impl fmt::Debug for PooledTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledTransport").field(&self.0).finish()
    }
}

impl DirectTransport {
    /// Makes a call of an async method that a plugin requests.
    pub(crate) async fn call_request(&self, request: Request<'static>) -> Result<Reply, Error> {
        self.0.call_async(request, None).await
    }
}
