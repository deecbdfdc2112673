//! Leases: a call leases the instance through a guard of its slot, so that calls share no counter.
//! The last lease only hands the backend back; a plugin is never shut down on a caller's
//! thread. A call runs on this thread, or as a future if its backend needs no thread.

mod bounds;
mod brief_task;
mod depth;
mod memory;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use hotbay_plugin::abi::{RawContext, RawPayload};
use hotbay_plugin::contract::internal::{
    DirectFn, LoweredCall, Method, MethodCall, StartExecuteFn, TypedResult,
};
use hotbay_plugin::contract::{ContractText, Format};
use hotbay_plugin::{OwnedPayload, Payload};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) use bounds::CallArgs;
use bounds::CallBounds;
#[cfg(all(unix, feature = "process"))]
use bounds::outer_cancelled;
pub(crate) use brief_task::BriefTask;
use depth::DEPTH;
pub(super) use depth::in_plugin_call;
pub(crate) use depth::is_in_plugin_call;
use memory::CallMemory;

use super::bindings::{Bindings, MethodBinding, ServedMethod};
use super::stream_threads::StreamThreads;
use super::{Backend, Generation, IoLimits, Parts, State};
use crate::boundary::task::RunningTask;
use crate::boundary::{Instance, MethodFault};
#[cfg(all(unix, feature = "process"))]
use crate::call::MethodMessage;
use crate::call::{
    Chain, Entered, Failure, MethodArguments, MethodRequest, Reply, ReplySlot, Request,
    RunningChain,
};
use crate::contracts::{FunctionRange, KnownContract};
use crate::error::{Error, ErrorKind, bug};
use crate::id::GenerationId;
use crate::sync::{ReturnSlot, block_on_until};
use crate::worker::RunOutcome;

/// The instance of a generation: owns the backend. The slot holds it; calls borrow it. Aligned for the
/// lane in a pointer to it, also on 32-bit systems.
#[repr(align(8))]
pub(crate) struct InstanceRef {
    /// Taken only on drop.
    backend: Option<Backend>,
    // Copies of the generation's values, so that a call follows no pointer for them.
    checks_input: bool,
    /// Whether inputs are passed to the plugin as they are.
    is_brief: bool,
    /// Starts a call of an async plugin.
    start_execute: Option<StartExecuteFn>,
    limits: IoLimits,
    memory: Option<CallMemory>,
    id: GenerationId,
    bindings: Bindings,
    generation: Arc<Generation>,
}

impl InstanceRef {
    /// Creates the instance of a started and healthy generation.
    pub(crate) fn new(parts: Parts, backend: Backend) -> Self {
        let generation = Generation {
            name: parts.name,
            id: parts.id,
            version: parts.version,
            limits: parts.limits,
            stream_threads: StreamThreads::new(parts.policy.max_stream_threads).into(),
            policy: parts.policy,
            retain_reason: parts.retain_reason,
            is_confined: parts.is_confined,
            workers: parts.workers,
            runtime: parts.runtime,
            abort: CancellationToken::new(),
            events: parts.events,
            current: AtomicBool::new(true),
            state: State::Serving.into(),
            returned: ReturnSlot::new(),
            tasks: Arc::default(),
            streams: Default::default(),
            services: parts.services.into(),
        };
        Self::resumed(Arc::new(generation), backend)
    }

    /// Creates an instance of a drained generation that serves again.
    pub(crate) fn resumed(generation: Arc<Generation>, backend: Backend) -> Self {
        let checks_input = generation.policy.checks_input();
        let (limits, id) = (generation.limits, generation.id);
        let start_execute = backend.start_execute();
        let memory = CallMemory::of(&generation.policy, &backend);
        let bindings = Bindings::new(memory.is_none());
        let is_brief = !checks_input && start_execute.is_none() && memory.is_none();
        Self {
            backend: Some(backend),
            checks_input,
            is_brief,
            start_execute,
            limits,
            memory,
            id,
            bindings,
            generation,
        }
    }

    /// Runs `call` with the backend on a thread of the plugin, which holds the lease meanwhile.
    pub(crate) fn call_with<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce(&Backend) -> Result<T, Failure> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let instance = Arc::clone(self);
        let receiver = self.generation.workers.spawn(move || instance.run(call));
        receiver.map_err(|error| {
            let message = "was not called: cannot start a thread";
            Error::new(ErrorKind::Overloaded, message).caused_by(error).of(&self.generation.name)
        })
    }

    /// Runs `call` like [`call_with`](Self::call_with), but waits for the result, at most
    /// `timeout`.
    pub(crate) fn call_within<T: Send + 'static>(
        self: &Arc<Self>,
        timeout: Duration,
        call: impl FnOnce(&Backend) -> Result<T, Failure> + Send + 'static,
    ) -> RunOutcome<Result<T, Error>> {
        let instance = Arc::clone(self);
        self.generation.workers.run(timeout, move || instance.run(call))
    }

    fn run<T>(&self, call: impl FnOnce(&Backend) -> Result<T, Failure>) -> Result<T, Error> {
        match &self.backend {
            Some(backend) => call(backend).map_err(|failure| self.generation.error_from(failure)),
            None => Err(bug!("the instance of `{}` lost its backend", self.generation.name)),
        }
    }

    /// Returns the generation, which may be held longer than the lease.
    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Returns the backend; `None` would be a bug.
    pub(crate) fn backend(&self) -> Option<&Backend> {
        self.backend.as_ref()
    }

    /// Returns whether inputs are validated against a schema.
    #[inline]
    pub(crate) fn checks_input(&self) -> bool {
        self.checks_input
    }

    /// Returns the socket of its process, if a second process would use the same path.
    pub(crate) fn fixed_socket(&self) -> Option<std::path::PathBuf> {
        self.backend.as_ref()?.fixed_socket()
    }

    /// Returns the bytes that the plugin has allocated, if it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        self.backend.as_ref()?.live_bytes()
    }

    /// Makes a call on this thread and fills `reply`.
    #[inline]
    pub(crate) fn call(&self, args: CallArgs<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        let CallArgs { request, call_id, .. } = args;
        let generation = &*self.generation;
        let Some(backend) = &self.backend else {
            return Err(bug!("the instance of `{}` lost its backend", generation.name));
        };
        generation.check_input(request)?;
        let _chain = self.enter_chain(request, call_id);
        #[cfg_attr(
            not(all(unix, feature = "process")),
            allow(
                clippy::infallible_destructuring_match,
                reason = "with processes it is fallible"
            )
        )]
        let instance = match backend {
            Backend::InProcess(instance) => instance,
            #[cfg(all(unix, feature = "process"))]
            Backend::OutOfProcess(process) => return self.call_process(process, args, reply),
        };
        if let Some(method) = request.method_request() {
            return self.call_method(instance, method, args, reply);
        }
        if request.endpoint().is_some() || request.names_http() {
            return Err(generation.no_endpoint(request));
        }
        if self.is_async() {
            return self.wait_for_task(args, reply);
        }
        let input = RawPayload::new(request.payload());
        self.run_measured(args, |context| {
            self.execute(instance, context, &input, request.deadline(), reply)
        })
    }

    /// Runs `call` of a plugin in this process with the context of the call.
    #[inline(always)]
    pub(super) fn run_in_process(
        &self,
        args: CallArgs<'_>,
        call: impl FnOnce(&RawContext<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.enter_in_process(args, |context, _entered| call(context))
    }

    /// Runs `call` like [`run_in_process`](Self::run_in_process). The plugin runs the call until the
    /// guard is dropped.
    #[inline(always)]
    fn enter_in_process<'a, T>(
        &self,
        args: CallArgs<'a>,
        call: impl FnOnce(&RawContext<'_>, Entered<'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let CallArgs { request, state, call_id } = args;
        let (deadline, token) = (request.deadline(), request.cancellation_token());
        let outer = request.method_request().and_then(|method| method.arguments.outer());
        let is_chained = request.chain().is_some() || Chain::may_be_current();
        let bounds = CallBounds { deadline, token, state, outer, is_chained };
        let context = bounds.context(call_id).with_trace(request.trace());
        let entered = self.generation.enter(state)?;
        call(&context, entered)
    }

    /// Runs `call` like [`run_in_process`](Self::run_in_process). Fails it if it took too much memory.
    #[inline(always)]
    fn run_measured(
        &self,
        args: CallArgs<'_>,
        call: impl FnOnce(&RawContext<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.run_in_process(args, |context| match &self.memory {
            Some(memory) => memory.limit(&self.generation, || call(context)),
            None => call(context),
        })
    }

    /// Calls a method of a contract of a plugin in this process, like [`call`](Self::call).
    #[inline(never)]
    fn call_method(
        &self,
        instance: &Instance,
        method: &MethodRequest<'_>,
        args: CallArgs<'_>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        let deadline = args.request.deadline();
        let (function, format) = match (self.bind_method(method)?, &method.arguments) {
            (MethodBinding::Direct(function, _), MethodArguments::Borrowed(call)) => {
                return self.run_measured(args, |context| {
                    self.execute_method(instance, *function, context, call, deadline)
                });
            }
            (MethodBinding::Direct(_, function), arguments) => {
                (*function, arguments.passed_as(Format::Postcard))
            }
            (MethodBinding::Converted(function), _) => (*function, Format::Json),
            (MethodBinding::Async(..), _) => return self.wait_for_task(args, reply),
            (MethodBinding::Stream(open, format), _) => {
                return self.open_stream(instance, (*open, *format), method, args);
            }
            (MethodBinding::Missing, _) => return Err(self.generation.method_missing(method)),
            (MethodBinding::Remote(_), _) => return Err(bug!("a function was bound to a process")),
        };
        let bytes = method.encode(format).map_err(|error| self.generation.not_encoded(error))?;
        let input = RawPayload::new(Payload::bytes(&bytes));
        self.run_measured(args, |context| {
            let output = reply.output_mut();
            let answer = in_plugin_call(|| {
                instance.call_serialized(function, context, format, &input, output)
            });
            answer.map_err(|failure| self.generation.error_from_by(deadline, failure))?;
            self.check_reply(instance, reply)
        })
    }

    /// Returns the function of a method of a contract, if its arguments cross as they are, and that is
    /// known.
    #[inline(always)]
    pub(crate) fn function(
        &self,
        functions: FunctionRange,
        method: usize,
    ) -> Option<(&Instance, DirectFn)> {
        let Some(Backend::InProcess(instance)) = &self.backend else { return None };
        Some((instance, self.bindings.function(functions, method)?))
    }

    /// Calls a method without options. Does not unwind, so a lease around it needs no memory.
    #[inline(always)]
    #[allow(clippy::result_large_err, reason = "inlined, so only a failed call moves it")]
    pub(crate) fn call_method_brief<M: Method>(
        &self,
        (instance, function): (&Instance, DirectFn),
        call: LoweredCall<'_, M>,
    ) -> Result<TypedResult<M>, BriefFailure> {
        let len = call.byte_len();
        if len as u64 > self.limits.max_input_bytes {
            return Err(BriefFailure::InputTooLarge(len));
        }
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        let answer = instance.call_typed(function, call);
        DEPTH.set(depth);
        match answer {
            Ok(result) if result.byte_len() as u64 > self.limits.max_output_bytes => {
                Err(BriefFailure::OutputTooLarge(result.byte_len()))
            }
            Ok(result) => Ok(result),
            Err(fault) => Err(BriefFailure::Fault(fault)),
        }
    }

    /// Returns the error of a failed call.
    #[cold]
    pub(crate) fn error_of(&self, failure: BriefFailure) -> Error {
        match failure {
            BriefFailure::InputTooLarge(len) => self.generation.input_too_large(len),
            BriefFailure::OutputTooLarge(len) => self.generation.output_too_large(len),
            BriefFailure::Fault(fault) => self.generation.error_from(fault.decode()),
        }
    }

    /// Runs a call of a method in this process.
    fn execute_method(
        &self,
        instance: &Instance,
        function: DirectFn,
        context: &RawContext<'_>,
        call: &MethodCall<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let answer = in_plugin_call(|| instance.call_method(function, context, call));
        answer.map_err(|failure| self.generation.error_from_by(deadline, failure))?;
        let len = call.result_len();
        if len as u64 > self.limits.max_output_bytes {
            call.drop_result();
            return Err(self.generation.output_too_large(len));
        }
        // Under the lease: it may be in memory of the plugin.
        call.read_result();
        Ok(())
    }

    /// Starts the task of a call.
    fn start_task<'a>(&self, args: CallArgs<'a>) -> Result<(RunningTask, Entered<'a>), Error> {
        let Some(Backend::InProcess(instance)) = &self.backend else {
            return Err(bug!("a process was called by a function"));
        };
        let request = args.request;
        let guard = || self.generation.tasks.start();
        match (request.method_request(), self.start_execute) {
            (Some(method), _) => {
                let MethodBinding::Async(start, format) = *self.bind_method(method)? else {
                    return Err(bug!("a method was bound to another kind"));
                };
                let format = method.arguments.passed_as(format);
                let bytes = method.encode(format);
                let bytes = bytes.map_err(|error| self.generation.not_encoded(error))?;
                self.start_in_process(args, |context| {
                    instance.start_method(start, context, format, bytes, guard())
                })
            }
            (None, Some(start)) => {
                let input = OwnedPayload::from(request.payload());
                self.start_in_process(args, |context| {
                    instance.start_execute(start, context, input, guard())
                })
            }
            (None, None) => Err(bug!("a plugin that is not async was called as a task")),
        }
    }

    /// Starts a task with the context of the call.
    fn start_in_process<'a>(
        &self,
        args: CallArgs<'a>,
        start: impl FnOnce(&RawContext<'_>) -> Result<RunningTask, Failure>,
    ) -> Result<(RunningTask, Entered<'a>), Error> {
        self.enter_in_process(args, |context, entered| {
            let started = in_plugin_call(|| start(context));
            let fail = |failure| self.generation.error_from_by(args.request.deadline(), failure);
            Ok((started.map_err(fail)?, entered))
        })
    }

    /// Makes a call as a task, as a future; dropping it cancels the call.
    async fn run_task(&self, args: CallArgs<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        let (task, entered) = self.start_task(args)?;
        let output = task.await;
        drop(entered);
        let deadline = args.request.deadline();
        let output = output.map_err(|failure| self.generation.error_from_by(deadline, failure))?;
        reply.output_mut().set(output);
        match &self.backend {
            Some(Backend::InProcess(instance)) => self.check_reply(instance, reply),
            _ => Ok(()),
        }
    }

    /// Makes a call as a task, and waits for it on this thread until the call has ended.
    #[cold]
    fn wait_for_task(&self, args: CallArgs<'_>, reply: &mut ReplySlot) -> Result<(), Error> {
        let request = args.request;
        // The runtime of the plugin may wait for this call.
        Chain::check_waiting(request.chain(), &self.generation.name)?;
        let ended = async {
            let state_ended = async {
                match args.state {
                    Some(state) => state.ended().await,
                    None => std::future::pending().await,
                }
            };
            select(pin!(state_ended), pin!(self.generation.calls_aborted())).await;
        };
        let cancelled = async {
            match request.cancellation_token() {
                Some(token) => token.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let run = pin!(self.run_task(args, reply));
        let (ended, cancelled) = (pin!(ended), pin!(cancelled));
        // A call with a state ends at its deadline by itself.
        let deadline = request.deadline().filter(|_| args.state.is_none());
        let stopped = pin!(select(ended, cancelled));
        match block_on_until(pin!(select(run, stopped)), deadline) {
            Some(Either::Left((outcome, _))) => outcome,
            Some(Either::Right((Either::Left(_), _))) => Err(match args.state {
                // Its caller may have its result already.
                Some(state) if state.timed_out() => self.generation.not_in_time(),
                Some(state) if !state.is_active() => self.generation.cancelled(),
                _ => self.generation.error_from(Failure::Cancelled),
            }),
            Some(Either::Right((Either::Right(_), _))) => Err(self.generation.cancelled()),
            None => Err(self.generation.not_in_time()),
        }
    }

    /// Returns how the method of a call is served.
    fn bind_method(&self, method: &MethodRequest<'_>) -> Result<&MethodBinding, Error> {
        self.binding(&method.contract, method.index)
    }

    /// Returns how a method is served; finds it at the first call.
    fn binding(&self, contract: &KnownContract, index: usize) -> Result<&MethodBinding, Error> {
        let Some(backend) = &self.backend else {
            return Err(bug!("the instance of `{}` lost its backend", self.generation.name));
        };
        let bound = match self.bindings.bound(contract, || backend.bind(&contract.text)) {
            Some(Ok(methods)) => methods.get(index),
            Some(Err(error)) => {
                return Err(self.generation.not_bound(backend, &contract.text, error));
            }
            None => None,
        };
        bound.ok_or_else(|| bug!("a contract has no method {index}"))
    }

    /// Returns whether the call runs as a task of a plugin in this process.
    pub(crate) fn is_task(&self, request: &Request<'_>) -> bool {
        match request.method_request() {
            Some(method) => matches!(self.bind_method(method), Ok(MethodBinding::Async(..))),
            None => {
                self.start_execute.is_some()
                    && request.endpoint().is_none()
                    && !request.names_http()
            }
        }
    }

    /// Returns whether it is an async plugin.
    pub(crate) fn is_async(&self) -> bool {
        self.start_execute.is_some()
    }

    /// Returns whether the plugin serves a contract.
    pub(crate) fn check_contract(&self, contract: &KnownContract) -> Result<(), Error> {
        let Some(backend) = &self.backend else { return Ok(()) };
        match self.bindings.bound(contract, || backend.bind(&contract.text)) {
            Some(Err(error)) => Err(self.generation.not_bound(backend, &contract.text, error)),
            _ => Ok(()),
        }
    }

    /// Records which plugins wait for a call that is about to run.
    #[inline]
    fn enter_chain(&self, request: &Request<'_>, call_id: u64) -> Option<RunningChain> {
        match request.chain() {
            Some(chain) => Some(RunningChain::enter(call_id, chain)),
            // The plugin may call from another thread or process, which only knows the id.
            None => Chain::current(None).map(|chain| RunningChain::enter(call_id, &chain)),
        }
    }

    /// Returns how a method of a contract is served.
    pub(crate) fn served_method(
        &self,
        contract: &KnownContract,
        index: usize,
    ) -> Result<ServedMethod, Error> {
        let binding = self.binding(contract, index)?;
        let needs_json = matches!(
            binding,
            MethodBinding::Converted(_)
                | MethodBinding::Async(_, Format::Json)
                | MethodBinding::Remote(Format::Json)
        );
        Ok(ServedMethod { needs_json, is_task: matches!(binding, MethodBinding::Async(..)) })
    }

    /// Returns whether the plugin serves a contract with this text, without keeping the result.
    pub(crate) fn check_text(&self, text: &ContractText) -> Result<(), Error> {
        let Some(backend) = &self.backend else { return Ok(()) };
        let bound = backend.bind(text).map(drop);
        bound.map_err(|error| self.generation.not_bound(backend, text, &error))
    }

    /// Returns the text of a contract that the plugin serves.
    pub(crate) fn contract_text(&self, name: &str) -> Option<ContractText> {
        self.backend.as_ref()?.contract_text(name)
    }

    /// Makes a call like [`call`](Self::call), with no options but a deadline. Returns `None` if the
    /// plugin is a process or async, inputs are validated, or a service calls with a deadline.
    #[inline(always)]
    pub(crate) fn call_brief(
        &self,
        call_id: u64,
        input: &RawPayload<'_>,
        deadline: Option<Instant>,
        reply: &mut ReplySlot,
    ) -> Option<Result<(), Error>> {
        let Some(Backend::InProcess(instance)) = &self.backend else { return None };
        // A context with a deadline would hide that of the service which makes the call.
        if !self.is_brief || (deadline.is_some() && Chain::may_be_current()) {
            return None;
        }
        if input.byte_len() as u64 > self.limits.max_input_bytes {
            return Some(Err(self.generation.input_too_large(input.byte_len())));
        }
        let bounds =
            CallBounds { deadline, token: None, state: None, outer: None, is_chained: false };
        Some(self.execute(instance, &bounds.context(call_id), input, deadline, reply))
    }

    /// Runs a call in this process.
    #[inline(always)]
    fn execute(
        &self,
        instance: &Instance,
        context: &RawContext<'_>,
        input: &RawPayload<'_>,
        deadline: Option<Instant>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        let fail = |failure| self.generation.error_from_by(deadline, failure);
        let answer = instance.execute(context, input, reply.output_mut(), fail);
        DEPTH.set(depth);
        answer?;
        self.check_reply(instance, reply)
    }

    /// Counts the output of a call, and checks it.
    #[inline(always)]
    fn check_reply(&self, instance: &Instance, reply: &mut ReplySlot) -> Result<(), Error> {
        reply.written_by(self.id, instance.outputs());
        if reply.as_bytes().len() as u64 > self.limits.max_output_bytes {
            return Err(self.generation.output_too_large(reply.as_bytes().len()));
        }
        if reply.has_own_content_type() {
            return self.generation.check_content_type(reply.content_type());
        }
        Ok(())
    }
}

#[cfg(all(unix, feature = "process"))]
impl InstanceRef {
    /// Returns the call of a process's method as it is sent; `None` if it is another call.
    pub(super) fn message(&self, request: &Request<'_>) -> Result<Option<MethodMessage>, Error> {
        let Some(method) = request.method_request() else { return Ok(None) };
        let format = match self.bind_method(method)? {
            MethodBinding::Remote(format) => *format,
            MethodBinding::Missing => return Err(self.generation.method_missing(method)),
            _ => return Err(bug!("a process was bound to a function")),
        };
        let mapped = self.backend.as_ref().and_then(|backend| backend.mapped(method));
        let message = method.message(format, mapped);
        message.map(Some).map_err(|error| self.generation.not_encoded(error))
    }

    /// Calls a process and waits on this thread.
    #[cold]
    fn call_process(
        &self,
        process: &hotbay_process::Process,
        args: CallArgs<'_>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        if let Some(slot) = args.request.stream_slot() {
            return self.wait_for_stream(process, slot, args);
        }
        let CallArgs { request, state, call_id } = args;
        let message = self.message(request)?;
        let call = request.to_process_call(call_id, message.as_ref());
        let entered = self.generation.enter(state)?;
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        let ended = async {
            let Some(state) = state else { return std::future::pending().await };
            state.ended().await;
            // At its deadline, the wait ends by itself.
            if state.timed_out() && request.deadline().is_some() {
                std::future::pending().await
            }
        };
        let outer = request.method_request().and_then(|method| method.arguments.outer());
        let cancelled = async {
            match (request.cancellation_token(), outer) {
                (Some(token), _) => {
                    let _ = select(pin!(ended), pin!(token.cancelled())).await;
                }
                (None, Some(outer)) => outer_cancelled(outer).await,
                (None, None) => ended.await,
            }
        };
        let answer = process.call(&call, cancelled, self.generation.calls_aborted());
        DEPTH.set(depth);
        drop(entered);
        self.generation.fill_reply(request, answer.map_err(Failure::from), reply)
    }
}

/// The reason that a call of a method failed, to be converted under the lease of the call.
pub(crate) enum BriefFailure {
    InputTooLarge(usize),
    OutputTooLarge(usize),
    Fault(MethodFault),
}

impl Drop for InstanceRef {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.generation.returned.put(backend);
        }
    }
}

impl fmt::Debug for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceRef").field("generation", &self.generation.id).finish()
    }
}

impl InstanceRef {
    /// Calls like [`call`](Self::call), as a future; dropping it ends the call.
    pub(crate) async fn call_async(
        &self,
        args: CallArgs<'_>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        #[cfg(all(unix, feature = "process"))]
        if let Some(Backend::OutOfProcess(process)) = self.backend() {
            let CallArgs { request, state, call_id } = args;
            let generation = self.generation();
            generation.check_input(request)?;
            if let Some(slot) = request.stream_slot() {
                return self.open_remote_stream(process, slot, args).await;
            }
            let message = self.message(request)?;
            let call = request.to_process_call(call_id, message.as_ref());
            let entered = generation.enter(state)?;
            let _chain = self.enter_chain(request, call_id);
            let answer = process.call_async(&call).await;
            drop(entered);
            return generation.fill_reply(request, answer.map_err(Failure::from), reply);
        }
        if !self.is_task(args.request) {
            return self.call(args, reply);
        }
        self.generation.check_input(args.request)?;
        let _chain = self.enter_chain(args.request, args.call_id);
        self.run_task(args, reply).await
    }

    /// Returns the maximum number of calls in a batch; `None` if calls are sent one by one.
    pub(crate) fn batch(&self) -> Option<usize> {
        match self.backend()? {
            Backend::InProcess(_) => None,
            #[cfg(all(unix, feature = "process"))]
            Backend::OutOfProcess(process) => process.max_batch(),
        }
    }

    /// Sends many calls as one batch and returns their results in order.
    pub(crate) async fn call_many(&self, args: &[CallArgs<'_>]) -> Vec<Result<Reply, Error>> {
        #[cfg(all(unix, feature = "process"))]
        if let Some(Backend::OutOfProcess(process)) = self.backend() {
            return self.call_process_many(process, args).await;
        }
        let mut answers = Vec::with_capacity(args.len());
        for args in args {
            let mut reply = ReplySlot::new();
            answers.push(self.call_async(*args, &mut reply).await.map(|()| reply.take()));
        }
        answers
    }

    #[cfg(all(unix, feature = "process"))]
    async fn call_process_many(
        &self,
        process: &hotbay_process::Process,
        args: &[CallArgs<'_>],
    ) -> Vec<Result<Reply, Error>> {
        let generation = self.generation();
        // An input that is too large is not sent. A call that names an endpoint, a method or
        // headers is sent by itself.
        let is_batched = |args: &CallArgs<'_>| {
            args.request.endpoint().is_none()
                && !args.request.names_http()
                && args.request.method_request().is_none()
                && generation.check_input(args.request).is_ok()
        };
        let mut calls = Vec::with_capacity(args.len());
        let mut is_alone = Vec::with_capacity(args.len());
        for args in args {
            let is_batched = is_batched(args);
            is_alone.push(!is_batched);
            if is_batched {
                calls.push(args.request.to_process_call(args.call_id, None));
            }
        }
        let results = match calls.len() {
            0 => Ok(Vec::new()),
            _ => process.call_many(&calls).await,
        };
        let mut results =
            results.map_err(|failure| generation.error_from(failure.into())).map(Vec::into_iter);
        let mut replies = Vec::with_capacity(args.len());
        for (args, is_alone) in args.iter().zip(is_alone) {
            let mut reply = ReplySlot::new();
            let outcome = match &mut results {
                _ if is_alone => self.call_async(*args, &mut reply).await,
                Ok(results) => {
                    let answer = match results.next() {
                        Some(answer) => answer.map_err(Failure::from),
                        None => Err(Failure::Other(bug!("a batch has fewer results than calls"))),
                    };
                    generation.fill_reply(args.request, answer, &mut reply)
                }
                Err(error) => Err(error.cloned()),
            };
            replies.push(outcome.map(|()| reply.take()));
        }
        replies
    }
}
