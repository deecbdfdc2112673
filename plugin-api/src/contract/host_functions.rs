//! The ABI of the calls that a plugin makes: C functions of the host that take a token. Plain C
//! structs, which rest on nothing of abi_stable.
//!
//! Invariants, which the blocks below cite:
//! H1: the functions in a [`RawHostFunctions`] are in code that is never unmapped, and accept any
//! token.
//! H2: what is passed by pointer is valid until the function returns, and it keeps no reference to
//! it.
//! H3: a completion is called once, while the library of its function is mapped.
//! H4: a task is released once, and not used afterward.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::{fmt, ptr};

use super::codec::Format;
use super::error::{CallError, CallErrorKind};
use super::table::{RawCompletion, RawTask};
use crate::context::{CallContext, RawContext};
use crate::panic::drop_panic;
use crate::payload::{Output, Payload, RawPayload};
use crate::root::RawFault;
use crate::services::{self, RawText};
use crate::{PluginError, text};

/// The code of success.
const OK: i32 = 0;
/// The code of a call that needs its arguments as JSON. Other codes are those of
/// [`CallErrorKind::code`].
const WRONG_FORMAT: i32 = -1;

/// A call of a method of the host or of another plugin.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingCall<'a> {
    /// What `bind` returned.
    pub target: u64,
    /// The position of the method in the caller's contract.
    pub method: usize,
    /// How the arguments are serialized.
    pub format: Format,
    /// The arguments.
    pub arguments: &'a [u8],
    /// The call that the plugin serves on this thread.
    pub outer: Option<CallContext<'a>>,
}

/// The reason a call has no result.
#[derive(Clone, Debug)]
pub enum CallFailure {
    /// It was not made: the arguments are needed as JSON.
    WrongFormat,
    /// It failed.
    Failed(CallError),
}

impl From<CallError> for CallFailure {
    fn from(error: CallError) -> Self {
        Self::Failed(error)
    }
}

/// The host's implementation of the calls. The token identifies one load of one plugin.
pub trait ContractHost {
    /// Finds the provider of a contract, given as text: a plugin of this name, or the host, or else any
    /// plugin.
    ///
    /// # Errors
    ///
    /// If there is none, or it may not be called.
    fn bind(token: u64, contract: &str, plugin: Option<&str>) -> Result<u64, CallError>;

    /// Calls a method, and returns its serialized result.
    ///
    /// # Errors
    ///
    /// Those of the call and of the method.
    fn call(token: u64, call: &OutgoingCall<'_>) -> Result<Output, CallFailure>;

    /// Starts a call of an async method.
    fn start(token: u64, call: &OutgoingCall<'_>, completer: Completer) -> Box<dyn CancelCall>;
}

/// A call that was started.
pub trait CancelCall: Send + Sync {
    /// Completes the call as cancelled, if it was not completed.
    fn cancel(&self);
}

/// Completes a call of an async method: as cancelled when it is dropped.
#[derive(Debug)]
pub struct Completer(Option<RawCompletion>);

impl Completer {
    /// Completes the call.
    pub fn complete(mut self, result: Result<Output, CallFailure>) {
        self.complete_once(result);
    }

    fn complete_once(&mut self, result: Result<Output, CallFailure>) {
        let Some(completion) = self.0.take() else { return };
        let (code, output, fault) = match result {
            Ok(output) => (OK, output, RawFault::empty()),
            Err(failure) => {
                let (code, fault) = raw_failure(failure);
                (code, Output::default(), fault)
            }
        };
        // SAFETY: H3.
        unsafe { (completion.complete)(completion.token, code, output, fault) };
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        let error = CallError::new(CallErrorKind::Cancelled, "the call was cancelled");
        self.complete_once(Err(error.into()));
    }
}

/// The ABI of an [`OutgoingCall`]. New fields go at the end.
#[repr(C)]
#[derive(Debug)]
struct RawOutgoing<'a> {
    size: usize,
    target: u64,
    method: u32,
    format: u32,
    arguments: RawPayload<'a>,
    /// Null if the plugin serves no call on this thread.
    outer: *const RawContext<'a>,
}

impl<'a> RawOutgoing<'a> {
    fn new(call: &OutgoingCall<'a>) -> Self {
        Self {
            size: size_of::<Self>(),
            target: call.target,
            method: u32::try_from(call.method).unwrap_or(u32::MAX),
            format: call.format.code(),
            arguments: RawPayload::new(Payload::bytes(call.arguments)),
            outer: call.outer.map_or(ptr::null(), |outer| ptr::from_ref(outer.raw())),
        }
    }

    /// # Safety
    ///
    /// The context is null or valid for `'a`.
    unsafe fn get(&self) -> Option<OutgoingCall<'a>> {
        // SAFETY: this function's contract.
        let outer = unsafe { self.outer.as_ref() };
        Some(OutgoingCall {
            target: self.target,
            method: self.method as usize,
            format: Format::of_code(self.format)?,
            arguments: self.arguments.get().as_bytes(),
            outer: outer.map(CallContext::new),
        })
    }
}

type BindFn = unsafe extern "C" fn(u64, RawText, *const RawText, *mut u64, *mut RawFault) -> i32;
type CallFn = unsafe extern "C" fn(u64, *const RawOutgoing<'_>, *mut Output, *mut RawFault) -> i32;
type StartCallFn = unsafe extern "C" fn(u64, *const RawOutgoing<'_>, RawCompletion) -> RawTask;

/// The host's functions for calls of contracts. New fields go at the end.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RawHostFunctions {
    /// The size in bytes: larger if the host is newer.
    size: usize,
    /// Token, text of the contract, and name of the plugin or null; writes the target or the fault.
    bind: BindFn,
    /// Writes the output or the fault.
    call: CallFn,
    /// Calls the completion once, perhaps before it returns.
    start: StartCallFn,
}

/// Returns the host's functions, if it offers those of this version.
pub(super) fn connected() -> Option<&'static RawHostFunctions> {
    let functions = services::contract_functions();
    if functions.is_null() {
        return None;
    }
    // SAFETY: H1 (the host passed its functions; every version of them begins with the size).
    let size = unsafe { functions.cast::<usize>().read() };
    // SAFETY: H1, and they are as many.
    (size >= size_of::<RawHostFunctions>()).then(|| unsafe { &*functions.cast() })
}

impl RawHostFunctions {
    /// Creates the functions of `H`, whose code must never be unmapped.
    pub const fn of<H: ContractHost>() -> Self {
        Self { size: size_of::<Self>(), bind: bind::<H>, call: call::<H>, start: start::<H> }
    }

    /// Finds the provider of a contract.
    pub(super) fn bind(
        &self,
        token: u64,
        contract: &str,
        plugin: Option<&str>,
    ) -> Result<u64, CallError> {
        let plugin = plugin.map(RawText::new);
        let plugin = plugin.as_ref().map_or(ptr::null(), ptr::from_ref);
        let (mut target, mut fault) = (0, RawFault::empty());
        // SAFETY: H1, H2.
        let code = unsafe {
            (self.bind)(token, RawText::new(contract), plugin, &raw mut target, &raw mut fault)
        };
        if code == OK { Ok(target) } else { Err(call_error(code, &fault)) }
    }

    /// Calls a method.
    pub(super) fn call(&self, token: u64, call: &OutgoingCall<'_>) -> Result<Output, CallFailure> {
        let raw = RawOutgoing::new(call);
        let (mut output, mut fault) = (Output::default(), RawFault::empty());
        // SAFETY: H1, H2.
        let code = unsafe { (self.call)(token, &raw const raw, &raw mut output, &raw mut fault) };
        result_of(code, output, &fault)
    }

    /// Starts a call of an async method.
    pub(super) fn start(&self, token: u64, call: &OutgoingCall<'_>) -> OutgoingTask {
        let raw = RawOutgoing::new(call);
        let pending = Arc::new(Pending::default());
        let shared = Arc::into_raw(Arc::clone(&pending));
        let token_of_call = shared.expose_provenance() as u64;
        let completion = RawCompletion { token: token_of_call, complete };
        // SAFETY: H1, H2.
        let task = unsafe { (self.start)(token, &raw const raw, completion) };
        OutgoingTask { task, pending }
    }
}

/// A call of an async method that its caller waits for. Dropping it cancels the call.
#[must_use]
pub(super) struct OutgoingTask {
    task: RawTask,
    pending: Arc<Pending>,
}

/// What a completion and the future share.
#[derive(Default)]
struct Pending(Mutex<Progress>);

#[derive(Default)]
enum Progress {
    #[default]
    New,
    Awaited(Waker),
    Completed(Result<Output, CallFailure>),
    /// The future has the result, or was dropped.
    Ended,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

unsafe extern "C" fn complete(token: u64, code: i32, output: Output, fault: RawFault) {
    let shared = ptr::with_exposed_provenance::<Pending>(token as usize);
    // SAFETY: H3 (`start` made it of an `Arc`, for this one call).
    let pending = unsafe { Arc::from_raw(shared) };
    // Nothing unwinds into the host.
    let _ = drop_panic(move || {
        let result = result_of(code, output, &fault);
        let mut progress = pending.lock();
        if matches!(*progress, Progress::Ended) {
            return;
        }
        let before = mem::replace(&mut *progress, Progress::Completed(result));
        drop(progress);
        if let Progress::Awaited(waker) = before {
            wake(waker);
        }
    });
}

/// Wakes a future of the plugin on a thread of the host.
fn wake(waker: Waker) {
    #[cfg(all(unix, feature = "tokio"))]
    crate::runtime::wake(waker);
    #[cfg(not(all(unix, feature = "tokio")))]
    waker.wake();
}

impl Future for OutgoingTask {
    type Output = Result<Output, CallFailure>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut progress = self.pending.lock();
        match mem::replace(&mut *progress, Progress::Ended) {
            Progress::Completed(result) => Poll::Ready(result),
            // Polled after it was ready, which no executor does.
            Progress::Ended => Poll::Pending,
            Progress::New | Progress::Awaited(_) => {
                *progress = Progress::Awaited(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for OutgoingTask {
    fn drop(&mut self) {
        let before = mem::replace(&mut *self.pending.lock(), Progress::Ended);
        let is_running = matches!(before, Progress::New | Progress::Awaited(_));
        drop(before);
        let RawTask { data, cancel, release } = self.task;
        if data.is_null() {
            return;
        }
        if is_running {
            // SAFETY: H4.
            unsafe { cancel(data) };
        }
        // SAFETY: H4.
        unsafe { release(data) };
    }
}

fn result_of(code: i32, output: Output, fault: &RawFault) -> Result<Output, CallFailure> {
    match code {
        OK => Ok(output),
        WRONG_FORMAT => Err(CallFailure::WrongFormat),
        code => Err(CallFailure::Failed(call_error(code, fault))),
    }
}

#[cold]
fn call_error(code: i32, fault: &RawFault) -> CallError {
    let error = fault.to_error();
    match CallErrorKind::of_code(code) {
        CallErrorKind::Plugin => error.into(),
        kind => {
            let hint = error.details().and_then(serde_json::Value::as_str).map(str::to_owned);
            let error = CallError::new(kind, error.message().to_owned());
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
    }
}

#[cold]
fn raw_failure(failure: CallFailure) -> (i32, RawFault) {
    let error = match failure {
        CallFailure::WrongFormat => return (WRONG_FORMAT, RawFault::empty()),
        CallFailure::Failed(error) => error,
    };
    let code = error.kind().code();
    if let (CallErrorKind::Plugin, Some(own)) = (error.kind(), error.plugin_error()) {
        return (code, RawFault::from_error(own));
    }
    let message = text::cut(&error.to_string(), text::MAX_MESSAGE_BYTES).into_owned();
    let raw = PluginError::new(0, message);
    let raw = match error.hint() {
        Some(hint) => raw.with_details(hint.into()),
        None => raw,
    };
    (code, RawFault::from_error(&raw))
}

/// Writes a failure and returns its code.
///
/// # Safety
///
/// `fault` is valid to write.
#[cold]
unsafe fn report(failure: CallFailure, fault: *mut RawFault) -> i32 {
    let (code, raw) = raw_failure(failure);
    // SAFETY: this function's contract.
    unsafe { fault.write(raw) };
    code
}

#[cold]
fn panicked() -> CallError {
    CallError::new(CallErrorKind::Other, "the host panicked")
}

#[cold]
fn unknown_format() -> CallError {
    CallError::new(CallErrorKind::InvalidInput, "unknown serialization format")
}

unsafe extern "C" fn bind<H: ContractHost>(
    token: u64,
    contract: RawText,
    plugin: *const RawText,
    target: *mut u64,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: H2.
    let contract = unsafe { contract.get() };
    // SAFETY: H2.
    let plugin = unsafe { plugin.as_ref() };
    // SAFETY: H2.
    let plugin = plugin.map(|plugin| unsafe { plugin.get() });
    match drop_panic(|| H::bind(token, contract, plugin)).unwrap_or_else(|| Err(panicked())) {
        Ok(found) => {
            // SAFETY: H2.
            unsafe { target.write(found) };
            OK
        }
        // SAFETY: H2.
        Err(error) => unsafe { report(error.into(), fault) },
    }
}

unsafe extern "C" fn call<H: ContractHost>(
    token: u64,
    call: *const RawOutgoing<'_>,
    output: *mut Output,
    fault: *mut RawFault,
) -> i32 {
    // SAFETY: H2.
    let call = unsafe { &*call };
    // SAFETY: H2.
    let call = unsafe { call.get() };
    let result = drop_panic(|| match call {
        Some(call) => H::call(token, &call),
        None => Err(unknown_format().into()),
    });
    match result.unwrap_or_else(|| Err(panicked().into())) {
        Ok(result) => {
            // SAFETY: H2.
            unsafe { output.write(result) };
            OK
        }
        // SAFETY: H2.
        Err(failure) => unsafe { report(failure, fault) },
    }
}

unsafe extern "C" fn start<H: ContractHost>(
    token: u64,
    call: *const RawOutgoing<'_>,
    completion: RawCompletion,
) -> RawTask {
    let completer = Completer(Some(completion));
    // SAFETY: H2.
    let call = unsafe { &*call };
    // SAFETY: H2.
    let call = unsafe { call.get() };
    // After a panic, the completer was dropped, so the call is completed.
    let task = drop_panic(|| match call {
        Some(call) => Some(H::start(token, &call, completer)),
        None => {
            completer.complete(Err(unknown_format().into()));
            None
        }
    });
    let data = match task.flatten() {
        Some(task) => Box::into_raw(Box::new(task)).cast_const().cast(),
        None => ptr::null(),
    };
    RawTask { data, cancel: cancel_call, release: release_call }
}

unsafe extern "C" fn cancel_call(data: *const ()) {
    // SAFETY: H4 (`start` made it of a box).
    let task = unsafe { &*data.cast::<Box<dyn CancelCall>>() };
    let _ = drop_panic(|| task.cancel());
}

unsafe extern "C" fn release_call(data: *const ()) {
    // SAFETY: H4.
    let task = unsafe { Box::from_raw(data.cast_mut().cast::<Box<dyn CancelCall>>()) };
    let _ = drop_panic(|| drop(task));
}

impl fmt::Debug for OutgoingTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingTask").finish_non_exhaustive()
    }
}
