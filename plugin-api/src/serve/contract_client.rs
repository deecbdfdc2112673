//! Calls of contracts of the host and of other plugins, over the socket of the host's services. Each
//! call has its own connection; closing it cancels the call.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use hotbay_protocol::{
    ContractCheck, ErrorBody, format_traceparent, header, millis_rounded_up, service,
};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode};

use super::body::{self, BodyError, OutgoingBody};
use super::host_client::{HostClient, client};
use crate::context::CANCEL_INTERVAL;
use crate::contract::internal::{
    CallFailure, CancelCall, Completer, ContractHost, OutgoingCall, RawHostFunctions,
};
use crate::contract::{CallError, CallErrorKind, ContractText, Format};
use crate::services;
use crate::wire::{block_on, sleep_until};
use crate::{CallContext, ContentType, Output, PluginError, TraceContext};

static PLUGIN: HeaderName = HeaderName::from_static(header::PLUGIN);
static CALL_ID: HeaderName = HeaderName::from_static(header::CALL_ID);
static DEADLINE_MS: HeaderName = HeaderName::from_static(header::DEADLINE_MS);
static TRACEPARENT: HeaderName = HeaderName::from_static(header::TRACEPARENT);

/// Time limit for the connection to the host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of contracts that a program can bind.
const MAX_BOUND: usize = 1024;

/// The contracts that the program has bound.
static BOUND: Mutex<Vec<Arc<Bound>>> = Mutex::new(Vec::new());

/// A contract that the program calls.
struct Bound {
    text: String,
    contract: ContractText,
    plugin: Option<String>,
}

static FUNCTIONS: RawHostFunctions = RawHostFunctions::of::<ProgramCalls>();

/// Returns the calls of contracts of this program, for a library that runs in it.
pub fn host_functions() -> &'static RawHostFunctions {
    &FUNCTIONS
}

/// Makes these the calls of contracts of this program.
pub(super) fn connect() {
    services::connect((&raw const FUNCTIONS).cast());
}

struct ProgramCalls;

impl ContractHost for ProgramCalls {
    fn bind(_: u64, contract: &str, plugin: Option<&str>) -> Result<u64, CallError> {
        let text = contract.to_owned();
        let parsed = ContractText::parse(contract).ok().and_then(|mut texts| texts.pop());
        let contract = parsed.ok_or_else(|| {
            CallError::new(CallErrorKind::InvalidInput, "invalid text of a contract")
        })?;
        let host = client().ok_or_else(no_host)?;
        let check = ContractCheck { plugin: plugin.map(Into::into), text: (&*text).into() };
        let body = serde_json::to_vec(&check).unwrap_or_default();
        exchange(host, host.request(service::CONTRACT, body)?, || false)?;
        let mut bound = BOUND.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |one: &Arc<Bound>| one.text == text && one.plugin.as_deref() == plugin;
        if let Some(number) = bound.iter().position(is_same) {
            return Ok(number as u64);
        }
        if bound.len() >= MAX_BOUND {
            let message = format!("the program has already bound {MAX_BOUND} contracts");
            let hint = "keep the value that `contract` returned, and call it again";
            return Err(CallError::new(CallErrorKind::Overloaded, message).with_hint(hint));
        }
        bound.push(Arc::new(Bound { text, contract, plugin: plugin.map(str::to_owned) }));
        Ok(bound.len() as u64 - 1)
    }

    fn call(_: u64, call: &OutgoingCall<'_>) -> Result<Output, CallFailure> {
        let outer = call.outer;
        Prepared::new(call)?.run(|| outer.is_some_and(|outer| outer.is_cancelled()))
    }

    fn start(_: u64, call: &OutgoingCall<'_>, completer: Completer) -> Box<dyn CancelCall> {
        let state = Arc::new(Started {
            is_cancelled: AtomicBool::new(false),
            completer: Mutex::new(Some(completer)),
        });
        let prepared = match Prepared::new(call) {
            Ok(prepared) => prepared,
            Err(failure) => {
                state.complete(Err(failure));
                return Box::new(Handle(state));
            }
        };
        let shared = Arc::clone(&state);
        let run = move || {
            let is_cancelled = || shared.is_cancelled.load(Ordering::Relaxed);
            shared.complete(prepared.run(is_cancelled));
        };
        let spawned = thread::Builder::new().name("hotbay-call".to_owned()).spawn(run);
        if let Err(error) = spawned {
            let message = format!("cannot start a thread for the call: {error}");
            let error = CallError::new(CallErrorKind::Overloaded, message);
            state.complete(Err(error.into()));
        }
        Box::new(Handle(state))
    }
}

/// A call on its own thread.
struct Started {
    is_cancelled: AtomicBool,
    completer: Mutex<Option<Completer>>,
}

struct Handle(Arc<Started>);

impl Started {
    fn complete(&self, result: Result<Output, CallFailure>) {
        let completer = self.completer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(completer) = completer {
            completer.complete(result);
        }
    }
}

impl CancelCall for Handle {
    fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Relaxed);
        let error = CallError::new(CallErrorKind::Cancelled, "the call was cancelled");
        self.0.complete(Err(error.into()));
    }
}

/// A call as a request.
struct Prepared {
    host: &'static HostClient,
    request: Request<OutgoingBody>,
}

impl Prepared {
    /// Fails with `WrongFormat` if the arguments are not JSON, which is all that the host accepts.
    fn new(call: &OutgoingCall<'_>) -> Result<Self, CallFailure> {
        if call.format != Format::Json {
            return Err(CallFailure::WrongFormat);
        }
        let host = client().ok_or_else(no_host)?;
        let bound = {
            let bound = BOUND.lock().unwrap_or_else(PoisonError::into_inner);
            usize::try_from(call.target).ok().and_then(|at| bound.get(at).cloned())
        };
        let invalid = || CallError::new(CallErrorKind::Other, "an unknown contract was called");
        let bound = bound.ok_or_else(invalid)?;
        let method = bound.contract.methods.get(call.method).ok_or_else(invalid)?;
        let path = format!("{}/{}/{}", service::CONTRACT, bound.contract.name, method.name);
        let mut request = host.request(&path, call.arguments.to_vec())?;
        let headers = request.headers_mut();
        if let Some(plugin) = &bound.plugin {
            let value = HeaderValue::from_str(plugin).map_err(|_| {
                let message = "invalid name of a plugin";
                CallError::new(CallErrorKind::InvalidInput, message)
            })?;
            headers.insert(&PLUGIN, value);
        }
        if let Some(outer) = call.outer {
            headers.insert(&CALL_ID, HeaderValue::from(outer.call_id()));
            if let Some(left) = outer.remaining() {
                headers.insert(&DEADLINE_MS, HeaderValue::from(millis_rounded_up(left)));
            }
            if let Some(value) = traceparent(&outer) {
                headers.insert(&TRACEPARENT, value);
            }
        }
        Ok(Self { host, request })
    }

    fn run(self, is_cancelled: impl Fn() -> bool) -> Result<Output, CallFailure> {
        let body = exchange(self.host, self.request, is_cancelled)?;
        Ok(Output::bytes(body).with_content_type(ContentType::JSON))
    }
}

fn traceparent(outer: &CallContext<'_>) -> Option<HeaderValue> {
    let TraceContext { trace_id, span_id, flags } = outer.trace()?;
    HeaderValue::from_str(&format_traceparent(trace_id, span_id, flags)).ok()
}

/// Sends a request, and returns the body of the response.
fn exchange(
    host: &HostClient,
    request: Request<OutgoingBody>,
    is_cancelled: impl Fn() -> bool,
) -> Result<Vec<u8>, CallError> {
    let connection = host.connect(Instant::now() + CONNECT_TIMEOUT).ok_or_else(no_response)?;
    let (mut sender, mut connection) = connection.into_parts();
    let mut response = pin!(async {
        sender.ready().await.ok()?;
        let response = sender.send_request(request).await.ok()?;
        let (parts, body) = response.into_parts();
        super::host_client::update_wanted_level(&parts.headers);
        Some((parts.status, body::read(body).await))
    });
    let mut cancelled = pin!(async {
        while !is_cancelled() {
            sleep_until(Instant::now() + CANCEL_INTERVAL).await;
        }
    });
    let mut has_ended = false;
    let exchange = poll_fn(|context| {
        if !has_ended {
            has_ended = connection.as_mut().poll(context).is_ready();
        }
        match response.as_mut().poll(context) {
            Poll::Ready(Some(response)) => return Poll::Ready(Ok(response)),
            Poll::Ready(None) => return Poll::Ready(Err(no_response())),
            Poll::Pending if has_ended => return Poll::Ready(Err(no_response())),
            Poll::Pending => {}
        }
        let error = || CallError::new(CallErrorKind::Cancelled, "the call was cancelled");
        cancelled.as_mut().poll(context).map(|()| Err(error()))
    });
    let (status, body) = block_on(None, exchange).unwrap_or_else(|| Err(no_response()))?;
    let body = body.map_err(|error| {
        let message = match error {
            BodyError::TooLarge => "the result is too large",
            BodyError::Incomplete => "the response of the host is incomplete",
        };
        CallError::new(CallErrorKind::InvalidOutput, message)
    })?;
    if status == StatusCode::OK { Ok(body.to_vec()) } else { Err(error_of(status, &body)) }
}

#[cold]
fn error_of(status: StatusCode, body: &[u8]) -> CallError {
    let body: ErrorBody<'_> = serde_json::from_slice(body).unwrap_or_default();
    let message = body.message.unwrap_or_default().into_owned();
    if status == StatusCode::UNPROCESSABLE_ENTITY {
        let code = body.code.and_then(|code| i32::try_from(code).ok()).unwrap_or(500);
        let error = PluginError::new(code, message);
        let details = body.details.and_then(|text| serde_json::from_str(text.get()).ok());
        let error = match details {
            Some(details) => error.with_details(details),
            None => error,
        };
        let is_retryable = body.retryable.unwrap_or(false);
        return if is_retryable { error.retryable().into() } else { error.into() };
    }
    let kind = match (&body.kind, status) {
        (Some(kind), _) => CallErrorKind::of_name(kind),
        // A host that is too old for contracts.
        (None, StatusCode::NOT_FOUND | StatusCode::GONE) => CallErrorKind::Unavailable,
        (None, _) => CallErrorKind::Other,
    };
    let error = CallError::new(kind, message);
    match body.hint {
        Some(hint) => error.with_hint(hint.into_owned()),
        None => error,
    }
}

#[cold]
fn no_host() -> CallError {
    CallError::new(CallErrorKind::Unavailable, "the program has no host: HOTBAY_HOST is not set")
}

#[cold]
fn no_response() -> CallError {
    CallError::new(CallErrorKind::Unavailable, "the host did not respond")
}
