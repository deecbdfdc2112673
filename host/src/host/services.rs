//! What plugins may call: the services of the host, and the contracts of other plugins.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use futures_util::future::{Either, select};
use hotbay_plugin::abi::{OutputSlot, RawContext, RawPayload};
use hotbay_plugin::contract::internal::{CallFailure, MethodKind, OutgoingCall};
use hotbay_plugin::contract::{CallError, CallErrorKind, ContractText, Format, MethodText};
use hotbay_plugin::{ContentType, Output, Payload};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use super::providers::{CallerKind, ProviderFinder};
use super::registry::shutting_down;
use super::service::Service;
use crate::boundary::{BoundMethod, Contracts, MethodFunctions};
use crate::call::{
    BoundContract, Caller, Chain, ContractCalls, EncodedArguments, MethodArguments, MethodRequest,
    NeedsJson, OuterBounds, OutgoingFuture, Reply, Request, RunningChain, crossing,
};
use crate::contracts::KnownContract;
use crate::error::{Error, ErrorKind, is_not_served};
use crate::generation::next_call_id;
use crate::handle::PluginHandle;
use crate::id::PluginName;
use crate::providers::Providers;
use crate::sync::deadline_in;
use crate::worker::TimerEntry;

/// The services of a host, and its plugins.
#[derive(Default)]
pub(super) struct HostContracts {
    services: BTreeMap<String, Arc<Service>>,
    /// Set once the host was built.
    host: OnceLock<Weak<Inner>>,
}

impl HostContracts {
    /// Adds a service; fails if there is one of this contract.
    pub(super) fn add(&mut self, service: Service) -> Result<(), Error> {
        let name = service.name.clone();
        if self.services.contains_key(&name) {
            let message = format!("a service of contract `{name}` is already registered");
            return Err(Error::new(ErrorKind::Duplicate, message));
        }
        self.services.insert(name, Arc::new(service));
        Ok(())
    }

    /// Sets the host, whose plugins can be called from now on.
    pub(super) fn set_host(&self, host: Weak<Inner>) {
        // A host is built once.
        let _ = self.host.set(host);
    }

    fn host(&self) -> Result<Arc<Inner>, Error> {
        self.host.get().and_then(Weak::upgrade).ok_or_else(shutting_down)
    }

    /// Returns the providers of a contract.
    fn providers(&self, contract: &str) -> Result<Providers, Error> {
        let host = self.host()?;
        let finder = ProviderFinder { host: Arc::downgrade(&host), caller: CallerKind::Plugin };
        Providers::new(contract, None, Arc::new(finder), host.registry.changes.clone())
    }
}

impl ContractCalls for HostContracts {
    fn bind(
        &self,
        caller: &Arc<Caller>,
        contract: ContractText,
        plugin: Option<&str>,
    ) -> Result<Arc<dyn BoundContract>, Error> {
        caller.check_contract(&contract.name)?;
        let callee = match (plugin, self.services.get(&contract.name)) {
            (Some(plugin), _) => Callee::Plugin(plugin.to_owned()),
            (None, Some(service)) => Callee::Service(Arc::clone(service), service.bind(&contract)?),
            (None, None) => Callee::Provider(self.providers(&contract.name)?),
        };
        let host = self.host()?;
        // A contract that is not served must not be kept.
        let text = &contract;
        let try_check = |handle: &PluginHandle| handle.try_check_text(text);
        if let Some(handle) = callee.plugin(&host, &caller.name, try_check) {
            handle?.check_text(text)?;
        }
        let name = contract.name.clone();
        let added = host.context.contracts.of_plugin(&caller.name, contract);
        let contract = added.map_err(|too_many| {
            let hint = "use fewer versions of contracts in the plugins, or restart the host";
            let message = format!("cannot call another version of contract `{name}`: {too_many}");
            Error::new(ErrorKind::Overloaded, message).with_hint(hint).of(&caller.name)
        })?;
        let caller = Arc::clone(caller);
        Ok(Arc::new(PluginContract { caller, contract, callee, host: Arc::downgrade(&host) }))
    }

    fn text_of(
        &self,
        caller: &Arc<Caller>,
        contract: &str,
        plugin: Option<&str>,
    ) -> Result<ContractText, Error> {
        caller.check_contract(contract)?;
        let not_typed = || {
            let message = format!("contract `{contract}` is not served as a typed contract");
            Error::new(ErrorKind::NotProvided, message)
        };
        let text = match (plugin, self.services.get(contract)) {
            (Some(plugin), _) => self.host()?.registry.find(plugin)?.contract_text(contract)?,
            (None, Some(service)) => {
                let mut texts = service.contracts().into_iter().flat_map(Contracts::texts);
                texts.next().cloned()
            }
            (None, None) => {
                let found = Cell::new(None);
                let try_check = |handle: &PluginHandle| {
                    let text = handle.try_contract_text(contract)?;
                    found.set(Some(text.ok_or_else(|| not_typed().of(handle.name()))?));
                    Ok(())
                };
                let first = self.providers(contract)?.first_other(&caller.name, try_check)?;
                // It is paused, for which the call waits.
                let wait = || first.contract_text(contract).transpose();
                found.take().map(Ok).or_else(wait).transpose()?
            }
        };
        text.ok_or_else(not_typed)
    }
}

/// A contract that a plugin calls. Holds no generation of another plugin.
struct PluginContract {
    caller: Arc<Caller>,
    contract: Arc<KnownContract>,
    callee: Callee,
    host: Weak<Inner>,
}

enum Callee {
    /// With the methods in the caller's order.
    Service(Arc<Service>, Box<[BoundMethod]>),
    Plugin(String),
    Provider(Providers),
}

impl Callee {
    /// Returns the plugin to call; `None` if it is a service. `try_check` is for providers.
    fn plugin(
        &self,
        host: &Inner,
        caller: &PluginName,
        try_check: impl Fn(&PluginHandle) -> Result<(), Error>,
    ) -> Option<Result<PluginHandle, Error>> {
        match self {
            Self::Plugin(name) => Some(host.registry.find(name)),
            Self::Provider(providers) => Some(providers.first_other(caller, try_check)),
            Self::Service(..) => None,
        }
    }
}

impl PluginContract {
    /// Returns the plugin to call.
    fn plugin(&self) -> Result<PluginHandle, Error> {
        let host = self.host.upgrade().ok_or_else(shutting_down)?;
        let try_check = |handle: &PluginHandle| handle.check_contract(&self.contract);
        let plugin = self.callee.plugin(&host, &self.caller.name, try_check);
        plugin.unwrap_or_else(|| Err(crate::error::bug!("a service is not a plugin")))
    }

    /// Returns a method that the plugin calls; fails if it returns a stream.
    fn callable(&self, index: usize) -> Result<&MethodText, CallError> {
        let method = self.method(index)?;
        if method.kind == MethodKind::Stream {
            let message = "a plugin cannot open a stream of a service or of another plugin";
            return Err(CallError::new(CallErrorKind::Other, message)
                .with_hint("call a method that returns a list, in pages if it is long"));
        }
        Ok(method)
    }

    fn method(&self, index: usize) -> Result<&MethodText, CallError> {
        self.contract.text.methods.get(index).ok_or_else(|| {
            let message = format!("contract `{}` has no method {index}", self.contract.text.name);
            CallError::new(CallErrorKind::InvalidInput, message)
        })
    }

    /// Returns the request of a call of a plugin.
    fn request<'a>(
        &self,
        call: &OutgoingCall<'a>,
        limits: &Limits,
        chain: Arc<Chain>,
    ) -> Request<'a> {
        let arguments = EncodedArguments {
            format: call.format,
            bytes: Cow::Borrowed(call.arguments),
            outer: call.outer,
        };
        let arguments = MethodArguments::Encoded(arguments);
        let contract = Arc::clone(&self.contract);
        let index = call.method;
        let mut request =
            Request::of_method(MethodRequest { contract, index, arguments, stream: None });
        if let Some(deadline) = limits.deadline {
            request = request.with_deadline(deadline);
        }
        if let Some(trace) = call.outer.and_then(|outer| outer.trace()) {
            request = request.with_trace(trace);
        }
        request.set_chain(chain);
        request
    }

    /// Returns the plugin of a call, its chain, and whether the method runs as a task.
    fn plugin_for(&self, call: &OutgoingCall<'_>) -> Result<ToPlugin, CallFailure> {
        let handle = self.plugin().map_err(crossing)?;
        let before = Chain::current(call.outer.map(|outer| outer.call_id()));
        let chain = Chain::to_plugin(before, &self.caller.name, handle.name()).map_err(crossing)?;
        let mut is_task = false;
        match handle.served_method(&self.contract, call.method) {
            Ok(served) if served.needs_json && call.format != Format::Json => {
                return Err(CallFailure::WrongFormat);
            }
            Ok(served) => is_task = served.is_task,
            Err(error) if is_not_served(&error) => return Err(crossing(error).into()),
            // It may be paused, for which the call waits.
            Err(_) => {}
        }
        Ok(ToPlugin { handle, chain, is_task })
    }

    fn call_service(
        &self,
        service: &Service,
        method: BoundMethod,
        call: &OutgoingCall<'_>,
    ) -> Result<Output, CallFailure> {
        let text = self.method(call.method)?;
        let functions = self.functions(method, text, call.format)?;
        let chain = self.chain_to(service, text, call)?;
        let instance = service.instance.as_ref().ok_or_else(|| crossing(shutting_down()))?;
        let MethodFunctions::Sync { serialized, .. } = functions else {
            let started = self.start_service(service, text, functions, chain, call)?;
            return crate::sync::block_on(pin!(started));
        };
        let call_id = next_call_id();
        let _chain = RunningChain::enter(call_id, &chain);
        let bounds = OuterBounds { outer: call.outer, deadline: Limits::of(call)?.deadline };
        let trace = call.outer.and_then(|outer| outer.trace());
        let context = RawContext::new(call_id).with_trace(trace.as_ref()).with_bounds(&bounds);
        let arguments = RawPayload::new(Payload::bytes(call.arguments));
        let mut output = OutputSlot::new();
        instance
            .call_serialized(serialized, &context, call.format, &arguments, &mut output)
            .map_err(|failure| service.failed(text, failure))?;
        Ok(output.take().unwrap_or_default())
    }

    /// Checks the permission of a method, and returns the chain of a call of a service.
    fn chain_to(
        &self,
        service: &Service,
        method: &MethodText,
        call: &OutgoingCall<'_>,
    ) -> Result<Arc<Chain>, CallError> {
        if let Some(permission) = &method.permission {
            self.caller.check(permission).map_err(crossing)?;
        }
        let before = Chain::current(call.outer.map(|outer| outer.call_id()));
        Chain::to_service(before, &self.caller.name, &service.name).map_err(crossing)
    }

    /// Returns the functions of a method of a service.
    fn functions(
        &self,
        method: BoundMethod,
        text: &MethodText,
        format: Format,
    ) -> Result<MethodFunctions, CallFailure> {
        match method {
            BoundMethod::Same(functions) => Ok(functions),
            BoundMethod::Converted(functions) if format == Format::Json => Ok(functions),
            BoundMethod::Converted(_) => Err(CallFailure::WrongFormat),
            BoundMethod::Missing => {
                let contract = &self.contract.text.name;
                let message = format!(
                    "service `{contract}` of the host has no method `{}`: it serves an earlier \
                     version",
                    text.name
                );
                Err(CallError::new(CallErrorKind::NotProvided, message).into())
            }
        }
    }

    /// Starts an async method of a service.
    fn start_service(
        &self,
        service: &Service,
        text: &MethodText,
        functions: MethodFunctions,
        chain: Arc<Chain>,
        call: &OutgoingCall<'_>,
    ) -> Result<OutgoingFuture, CallFailure> {
        let MethodFunctions::Async { start } = functions else {
            let message = format!("method `{}` is not async", text.name);
            return Err(CallError::new(CallErrorKind::InvalidInput, message).into());
        };
        let Callee::Service(service, _) = &self.callee else {
            return Err(crossing(service.not_served()).into());
        };
        let service = Arc::clone(service);
        let instance = service.instance.as_ref().ok_or_else(|| crossing(shutting_down()))?;
        let call_id = next_call_id();
        let running = RunningChain::enter(call_id, &chain);
        let deadline = Limits::of(call)?.deadline;
        let bounds = OuterBounds { outer: call.outer, deadline };
        let trace = call.outer.and_then(|outer| outer.trace());
        let context = RawContext::new(call_id).with_trace(trace.as_ref()).with_bounds(&bounds);
        let deadline = deadline.map(|at| self.wait_until(at)).transpose().map_err(crossing)?;
        let (bytes, guard) = (call.arguments.to_vec(), service.tasks.start());
        let started = instance.start_method(start, &context, call.format, bytes, guard);
        let task = started.map_err(|failure| service.failed(text, failure))?;
        let text = text.clone();
        Ok(Box::pin(async move {
            let _running = running;
            let passed = pin!(async {
                match &deadline {
                    Some(deadline) => deadline.passed.cancelled().await,
                    None => std::future::pending().await,
                }
            });
            match select(task, passed).await {
                Either::Left((result, _)) => {
                    result.map_err(|failure| service.failed(&text, failure).into())
                }
                Either::Right(_) => Err(service.not_in_time(&text).into()),
            }
        }))
    }

    /// Returns a deadline that the host's timer reports.
    fn wait_until(&self, at: Instant) -> Result<Arc<Deadline>, Error> {
        let host = self.host.upgrade().ok_or_else(shutting_down)?;
        let deadline = Arc::new(Deadline { at, passed: CancellationToken::new() });
        let entry: Arc<dyn TimerEntry> = Arc::clone(&deadline) as _;
        host.context.timer.handle().schedule(at, &entry);
        Ok(deadline)
    }
}

/// The deadline of an async method of a service.
struct Deadline {
    at: Instant,
    passed: CancellationToken,
}

impl TimerEntry for Deadline {
    fn fire_due(self: Arc<Self>, now: Instant) -> Option<Instant> {
        if now < self.at {
            return Some(self.at);
        }
        self.passed.cancel();
        None
    }
}

/// A call of a plugin.
struct ToPlugin {
    handle: PluginHandle,
    chain: Arc<Chain>,
    /// Whether the method runs as a task.
    is_task: bool,
}

/// The limits of a call: those of the call that its plugin serves.
struct Limits {
    deadline: Option<Instant>,
}

impl Limits {
    /// Returns the limits; fails if the outer call has ended.
    fn of(call: &OutgoingCall<'_>) -> Result<Self, CallError> {
        let remaining = call.outer.and_then(|outer| outer.remaining());
        if remaining.is_some_and(|left| left.is_zero()) {
            let message = "was not called: the deadline of the outer call has passed";
            return Err(CallError::new(CallErrorKind::DeadlineExceeded, message));
        }
        if call.outer.is_some_and(|outer| outer.is_cancelled()) {
            let message = "was not called: the outer call was cancelled";
            return Err(CallError::new(CallErrorKind::Cancelled, message));
        }
        Ok(Self { deadline: remaining.map(deadline_in) })
    }
}

impl BoundContract for PluginContract {
    fn call(&self, call: &OutgoingCall<'_>) -> Result<Output, CallFailure> {
        let limits = Limits::of(call)?;
        self.callable(call.method)?;
        if let Callee::Service(service, methods) = &self.callee {
            return self.call_service(service, methods[call.method], call);
        }
        let ToPlugin { handle, chain, .. } = self.plugin_for(call)?;
        let request = self.request(call, &limits, chain);
        handle.call(request).map(|reply| output_of(&reply)).map_err(failure_of)
    }

    fn start(&self, call: &OutgoingCall<'_>) -> Result<OutgoingFuture, CallFailure> {
        let limits = Limits::of(call)?;
        let text = self.callable(call.method)?;
        if text.kind != MethodKind::Async {
            let message = format!("method `{}` is not async", text.name);
            return Err(CallError::new(CallErrorKind::InvalidInput, message).into());
        }
        if let Callee::Service(service, methods) = &self.callee {
            let functions = self.functions(methods[call.method], text, call.format)?;
            let chain = self.chain_to(service, text, call)?;
            return self.start_service(service, text, functions, chain, call);
        }
        let ToPlugin { handle, chain, is_task } = self.plugin_for(call)?;
        let request = self.request(call, &limits, chain).into_owned();
        if is_task {
            let contract = Arc::clone(&self.contract);
            let transport = handle.contract(contract).map_err(crossing)?;
            return Ok(Box::pin(async move {
                let reply = transport.call_request(request).await;
                reply.map(|reply| output_of(&reply)).map_err(failure_of)
            }));
        }
        call_on_thread(&self.caller, handle, request)
    }
}

/// Calls a plugin on a new thread: one of its workers may wait for this call.
fn call_on_thread(
    caller: &Caller,
    handle: PluginHandle,
    request: Request<'static>,
) -> Result<OutgoingFuture, CallFailure> {
    let token = CancellationToken::new();
    let request = request.with_cancellation_token(token.clone());
    let guard = token.drop_guard();
    let (sender, receiver) = oneshot::channel();
    caller.call_on_thread(move || {
        let result = handle.call(request).map(|reply| output_of(&reply)).map_err(failure_of);
        // The receiver is gone if the caller dropped the call.
        let _ = sender.send(result);
    })?;
    Ok(Box::pin(async move {
        let _guard = guard;
        receiver.await.unwrap_or_else(|_| {
            let message = "the thread of the call exited without a result";
            Err(CallError::new(CallErrorKind::Other, message).into())
        })
    }))
}

/// Copies a reply, so that the plugin that wrote it can be unloaded.
fn output_of(reply: &Reply) -> Output {
    let output = Output::copy_of(reply.as_bytes());
    match reply.content_type() == ContentType::JSON {
        true => output.with_content_type(ContentType::JSON),
        false => output,
    }
}

/// Returns the failure of a call of a plugin.
#[cold]
fn failure_of(error: Error) -> CallFailure {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if cause.is::<NeedsJson>() {
            // The plugin was replaced by a build with another signature.
            return CallFailure::WrongFormat;
        }
        source = cause.source();
    }
    crossing(error).into()
}

impl fmt::Debug for HostContracts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostContracts").field("services", &self.services.keys()).finish()
    }
}
