//! Methods of a contract: what the macro generates for each, and the C functions that serve them.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::argument::{self, Arguments};
use super::codec::{CodecError, Format};
use super::data::Data;
use super::error::{CallError, CallErrorKind};
use super::form::Form;
use super::shape::MethodShape;
use super::table::{RawMethod, RawStr, code};
use crate::PluginError;
use crate::context::{CallContext, RawContext};
use crate::export::{Failure, guard, report_failure};
use crate::payload::{Output, RawPayload};
use crate::root::{self, RawFault, RawInstance};

/// A method of a contract. The macro implements it.
pub trait Method: 'static {
    /// Its arguments, as a list of pairs.
    type Arguments: Arguments;
    /// Its result.
    type Output: Data;
    /// Its error.
    type Error: MethodError;
    /// Its signature.
    const SHAPE: MethodShape;
    /// Its position in the contract.
    const INDEX: usize;
}

/// An error that methods can return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a contract's method",
    label = "not an error of contracts",
    note = "`CallError` and `PluginError` can; a type of your own implements `From<CallError>`, and \
            `PluginError` implements `From` of it"
)]
pub trait MethodError: Sized {
    /// Returns the error for a call that failed.
    fn of_call(error: CallError) -> Self;

    /// Returns the error as it crosses.
    fn into_plugin_error(self) -> PluginError;
}

// Supertraits instead would be reported instead of this trait.
#[diagnostic::do_not_recommend]
impl<E: From<CallError> + Into<PluginError>> MethodError for E {
    fn of_call(error: CallError) -> Self {
        error.into()
    }

    fn into_plugin_error(self) -> PluginError {
        self.into()
    }
}

/// The types of a method's arguments.
pub type ArgumentTypes<'a, M> = <<M as Method>::Arguments as Arguments>::Types<'a>;

type RawArguments<M> = <<M as Method>::Arguments as Arguments>::Raw;
type OutputForm<M> = <<M as Method>::Output as Data>::Form;
type RawResult<M> = <OutputForm<M> as Form<<M as Method>::Output>>::RawResult;

/// A method that values of the type `T` serve.
pub trait Serves<T: ?Sized>: Method {
    /// Calls the method.
    ///
    /// # Errors
    ///
    /// Those of the method.
    fn call(target: &T, arguments: ArgumentTypes<'_, Self>) -> Result<Self::Output, Self::Error>;
}

/// An async method that values of the type `T` serve.
pub trait ServesAsync<T: ?Sized>: Method {
    /// Calls the method.
    fn call<'a>(
        target: &'a T,
        arguments: ArgumentTypes<'a, Self>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send + 'a;
}

/// Returns the entry of a method that the plugin type `T` serves. `LINKED` is `true` if it is
/// compiled into the host.
pub const fn entry<T: 'static, M: Serves<T>, const LINKED: bool>() -> RawMethod {
    RawMethod {
        name: RawStr::new(M::SHAPE.name),
        hash: M::SHAPE.hash(),
        direct: Some(direct::<T, M, LINKED>),
        serialized: Some(serialized::<T, M, LINKED>),
        start: None,
    }
}

/// A method that a program serves with values of the type `T`.
#[derive(Debug)]
pub struct ServedMethod<T> {
    /// Its name.
    pub name: &'static str,
    /// The hash of its signature.
    pub hash: u64,
    /// Calls it with serialized arguments; does not catch panics.
    pub call: SerializedCall<T>,
}

/// Calls a method with serialized arguments, and returns its serialized result.
pub type SerializedCall<T> =
    fn(&T, &RawContext<'_>, Format, &[u8]) -> Result<Output, (Failed, PluginError)>;

/// Returns a method that the plugin type `T` serves in a program.
pub const fn served<T: 'static, M: Serves<T>>() -> ServedMethod<T> {
    ServedMethod { name: M::SHAPE.name, hash: M::SHAPE.hash(), call: call_serialized::<T, M> }
}

// Invariants of the functions below, kept by the host (`boundary/contract.rs`):
// M1: the instance was started by the library that owns the table, and was not stopped.
// M2: the pointers are valid until the function returns, and have the types of the method's
//     signature, whose text and hash both sides compared.

unsafe extern "C" fn direct<T, M: Serves<T>, const LINKED: bool>(
    instance: RawInstance,
    context: *const RawContext<'_>,
    arguments: *const c_void,
    result: *mut c_void,
    fault: *mut RawFault,
) -> i32 {
    let serve = |failed: &mut Failed| {
        // SAFETY: M1.
        let target = unsafe { &*instance.cast::<T>() };
        // SAFETY: M2.
        let context = unsafe { &*context };
        // SAFETY: M2.
        let raw = unsafe { &*arguments.cast::<RawArguments<M>>() };
        let mut space = Default::default();
        // SAFETY: M2 (F1 and F2 of `form.rs`).
        let arguments = unsafe { M::Arguments::lift(raw, &mut space) };
        let arguments = arguments.map_err(|error| failed.with(Failed::Arguments, &error))?;
        let output = in_context(context, || M::call(target, arguments))
            .map_err(M::Error::into_plugin_error)?;
        let raw = OutputForm::<M>::lower_result(output);
        let raw = raw.map_err(|error| failed.with(Failed::Result, &error))?;
        // SAFETY: M2.
        unsafe { result.cast::<RawResult<M>>().write(raw) };
        Ok(())
    };
    // SAFETY: M2.
    unsafe { run_guarded::<LINKED>(serve, fault) }
}

unsafe extern "C" fn serialized<T, M: Serves<T>, const LINKED: bool>(
    instance: RawInstance,
    context: *const RawContext<'_>,
    format: u32,
    arguments: *const RawPayload<'_>,
    output: *mut Output,
    fault: *mut RawFault,
) -> i32 {
    let serve = |failed: &mut Failed| {
        // SAFETY: M1.
        let target = unsafe { &*instance.cast::<T>() };
        // SAFETY: M2.
        let context = unsafe { &*context };
        // SAFETY: M2.
        let arguments = unsafe { &*arguments }.get();
        let format = Format::of_code(format)
            .ok_or_else(|| CodecError::new("unknown serialization format"))
            .map_err(|error| failed.with(Failed::Arguments, &error))?;
        let result = call_serialized::<T, M>(target, context, format, arguments.as_bytes());
        let result = result.map_err(|(part, error)| {
            *failed = part;
            error
        })?;
        // SAFETY: M2.
        unsafe { result.store(output) };
        Ok(())
    };
    // SAFETY: M2.
    unsafe { run_guarded::<LINKED>(serve, fault) }
}

/// Runs `serve` and returns the code of its result. `serve` names the part that fails.
///
/// # Safety
///
/// `fault` is valid to write.
#[inline(always)]
unsafe fn run_guarded<const LINKED: bool>(
    serve: impl FnOnce(&mut Failed) -> Result<(), PluginError>,
    fault: *mut RawFault,
) -> i32 {
    let mut failed = Failed::Method;
    match guard::<LINKED>(|| serve(&mut failed)) {
        Ok(()) => root::code::OK,
        // SAFETY: this function's contract.
        Err(failure) => unsafe { report(failure, failed, fault) },
    }
}

/// Calls a method with serialized arguments.
fn call_serialized<T, M: Serves<T>>(
    target: &T,
    context: &RawContext<'_>,
    format: Format,
    arguments: &[u8],
) -> Result<Output, (Failed, PluginError)> {
    let bad_arguments = |error: CodecError| (Failed::Arguments, bad(&error));
    let space = argument::decode::<M::Arguments>(format, arguments, M::SHAPE.names);
    let mut space = space.map_err(bad_arguments)?;
    let arguments = M::Arguments::borrow(&mut space)
        .ok_or_else(|| bad_arguments(CodecError::new("missing")))?;
    result_of(
        format,
        in_context(context, || M::call(target, arguments)).map_err(M::Error::into_plugin_error),
    )
}

/// Serializes the result of a method.
pub(super) fn result_of<T: Data>(
    format: Format,
    result: Result<T, PluginError>,
) -> Result<Output, (Failed, PluginError)> {
    let output = result.map_err(|error| (Failed::Method, error))?;
    let bytes = format.encode(&output).map_err(|error| (Failed::Result, bad(&error)))?;
    let output = Output::copy_of(&bytes);
    let output = if output.is_inline() { output } else { Output::bytes(bytes) };
    Ok(match format {
        Format::Json => output.with_content_type(format.content_type()),
        // The caller asked for it, so it needs no name, which would be a copy.
        Format::Postcard => output,
    })
}

/// The part of a call that failed.
#[derive(Clone, Copy, Debug)]
pub enum Failed {
    /// An argument cannot be read.
    Arguments,
    /// The method returned an error.
    Method,
    /// The result cannot be serialized.
    Result,
}

impl Failed {
    #[cold]
    fn with(&mut self, part: Self, error: &CodecError) -> PluginError {
        *self = part;
        bad(error)
    }

    /// Returns the code of an error in this part.
    pub(super) const fn code(self) -> i32 {
        match self {
            Self::Arguments => code::BAD_ARGUMENTS,
            Self::Method => root::code::ERROR,
            Self::Result => code::BAD_RESULT,
        }
    }
}

#[cold]
pub(super) fn bad(error: &CodecError) -> PluginError {
    PluginError::new(PluginError::BAD_INPUT, error.to_string())
}

/// Writes a failure through `fault` and returns its code.
///
/// # Safety
///
/// `fault` is valid to write.
#[cold]
#[inline(never)]
unsafe fn report(failure: Failure, failed: Failed, fault: *mut RawFault) -> i32 {
    // SAFETY: this function's contract.
    let code = unsafe { report_failure(failure, fault) };
    if code == root::code::ERROR { failed.code() } else { code }
}

thread_local! {
    /// The context of the current call of a method, if it has a deadline, a token or a trace. Without
    /// a destructor, which would keep the library mapped.
    static CONTEXT: Cell<*const RawContext<'static>> = const { Cell::new(ptr::null()) };
}

/// Runs `call` with `context` as the current one.
#[inline(always)]
pub(super) fn in_context<R>(context: &RawContext<'_>, call: impl FnOnce() -> R) -> R {
    if !context.has_more_than_an_id() {
        return call();
    }
    let pointer = ptr::from_ref(context).cast::<RawContext<'static>>();
    let _current = CurrentContext(CONTEXT.replace(pointer));
    call()
}

/// Restores the previous context when it is dropped.
struct CurrentContext(*const RawContext<'static>);

impl Drop for CurrentContext {
    fn drop(&mut self) {
        CONTEXT.set(self.0);
    }
}

/// Passes the context of the current call of a method to `run`: its deadline, cancellation and
/// trace.
///
/// `None` outside of such a call, on other threads, and for a call without any of them.
///
/// ```
/// use hotbay_plugin::contract::with_context;
///
/// let is_cancelled = with_context(|context| context.is_some_and(|call| call.is_cancelled()));
/// assert!(!is_cancelled); // No call runs on this thread.
/// ```
pub fn with_context<R>(run: impl FnOnce(Option<CallContext<'_>>) -> R) -> R {
    let context = CONTEXT.get();
    // SAFETY: `in_context` set it from a reference, and resets it before that ends.
    let context = unsafe { context.as_ref() };
    run(context.map(CallContext::new))
}

/// A call of a method on its way to the plugin: pointers to the arguments and to space for the
/// result. It crosses as it is, or serialized.
pub struct MethodCall<'a> {
    raw: *const c_void,
    result: *mut c_void,
    byte_len: usize,
    is_written: AtomicBool,
    /// The arguments, for `functions`.
    values: *const c_void,
    functions: &'static Functions,
    lifetime: PhantomData<&'a mut ()>,
}

/// Functions for the erased types of a method.
#[derive(Debug)]
struct Functions {
    owns_result: bool,
    result_len: unsafe fn(*const c_void) -> usize,
    drop_result: unsafe fn(*mut c_void),
    encode: unsafe fn(*const c_void, Format) -> Result<Vec<u8>, CallError>,
    to_json: fn(&[u8]) -> Result<Vec<u8>, CallError>,
}

// SAFETY: the arguments are data that any thread may read. The result is accessed by the call that
// sets `is_written`, and by nothing else until that has returned.
unsafe impl Send for MethodCall<'_> {}
// SAFETY: as above.
unsafe impl Sync for MethodCall<'_> {}

impl MethodCall<'_> {
    /// Returns the number of bytes of the arguments.
    #[inline(always)]
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// Calls `function` with the pointers to arguments and result; the result is written if it
    /// returns zero.
    ///
    /// # Safety
    ///
    /// `function` reads the arguments and writes the result as the method's signature says.
    #[inline(always)]
    pub unsafe fn run(&self, function: impl FnOnce(*const c_void, *mut c_void) -> i32) -> i32 {
        if self.is_written() {
            self.drop_result();
        }
        let code = function(self.raw, self.result);
        if code == root::code::OK {
            self.is_written.store(true, Ordering::Relaxed);
        }
        code
    }

    /// Serializes the arguments.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if one cannot be serialized.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>, CallError> {
        // SAFETY: the arguments live as long as the call, and the function is that of their type.
        unsafe { (self.functions.encode)(self.values, format) }
    }

    /// Serializes the arguments, for a call that outlives this one.
    ///
    /// # Errors
    ///
    /// The same as [`encode`](Self::encode).
    pub fn to_owned(&self) -> Result<OwnedArguments, CallError> {
        let bytes = self.encode(Format::Postcard)?;
        Ok(OwnedArguments { bytes, to_json: self.functions.to_json })
    }

    /// Returns whether the result was written.
    #[inline(always)]
    pub fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }

    /// Returns whether the result may own memory.
    #[inline(always)]
    pub fn owns_result(&self) -> bool {
        self.functions.owns_result
    }

    /// Returns the number of bytes that the result owns.
    pub fn result_len(&self) -> usize {
        if !self.is_written() {
            return 0;
        }
        // SAFETY: a result was written, and the function is that of its type.
        unsafe { (self.functions.result_len)(self.result) }
    }

    /// Drops the result, if there is one.
    #[cold]
    pub fn drop_result(&self) {
        if self.is_written.swap(false, Ordering::Relaxed) {
            // SAFETY: a result was written, and is not read again.
            unsafe { (self.functions.drop_result)(self.result) }
        }
    }
}

impl fmt::Debug for MethodCall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodCall")
            .field("byte_len", &self.byte_len)
            .field("is_written", &self.is_written())
            .finish_non_exhaustive()
    }
}

struct FunctionsOf<M>(PhantomData<M>);

impl<M: Method> FunctionsOf<M> {
    const FUNCTIONS: &'static Functions = &Functions {
        owns_result: OutputForm::<M>::OWNS_RESULT,
        result_len: result_len::<M>,
        drop_result: drop_result::<M>,
        encode: encode::<M>,
        to_json: to_json::<M>,
    };
}

unsafe fn result_len<M: Method>(result: *const c_void) -> usize {
    // SAFETY: the caller passes a written result of this method.
    OutputForm::<M>::result_len(unsafe { &*result.cast::<RawResult<M>>() })
}

unsafe fn drop_result<M: Method>(result: *mut c_void) {
    // SAFETY: as above; it is not read again.
    unsafe { result.cast::<RawResult<M>>().drop_in_place() }
}

unsafe fn encode<M: Method>(values: *const c_void, format: Format) -> Result<Vec<u8>, CallError> {
    // SAFETY: the caller passes the arguments of this method.
    let values = unsafe { &*values.cast::<ArgumentTypes<'_, M>>() };
    encode_arguments::<M>(format, values)
}

/// Calls a method: `run` passes the call to the plugin, and returns the serialized result with its
/// format if it did not write the result.
///
/// Always inlined, so that arguments and result are in the caller's frame.
///
/// # Errors
///
/// Those of `run`; and arguments or results that cannot be converted.
#[inline(always)]
pub fn call_method<M: Method, R: AsRef<[u8]>>(
    arguments: &ArgumentTypes<'_, M>,
    run: impl FnOnce(&MethodCall<'_>) -> Result<Option<(Format, R)>, CallError>,
) -> Result<M::Output, CallError> {
    let store = M::Arguments::prepare(arguments).map_err(invalid_argument)?;
    let raw = M::Arguments::lower(arguments, &store);
    let mut result = MaybeUninit::<RawResult<M>>::uninit();
    let call = MethodCall {
        raw: (&raw const raw).cast(),
        result: result.as_mut_ptr().cast(),
        byte_len: M::Arguments::byte_len(&raw),
        is_written: AtomicBool::new(false),
        values: ptr::from_ref(arguments).cast(),
        functions: FunctionsOf::<M>::FUNCTIONS,
        lifetime: PhantomData,
    };
    match run(&call) {
        Ok(None) if call.is_written() => {
            // SAFETY: it was written, and is read once.
            let result = unsafe { result.assume_init() };
            // SAFETY: F1 and F3 of `form.rs`: `MethodCall::run` requires it.
            unsafe { OutputForm::<M>::lift_result(result) }.map_err(invalid_result)
        }
        Ok(Some((format, result))) => {
            call.drop_result();
            decode_result::<M>(format, result.as_ref())
        }
        Ok(None) => Err(no_result()),
        Err(error) => {
            call.drop_result();
            Err(error)
        }
    }
}

/// The arguments of a call that does not run on its caller's thread.
#[derive(Clone, Debug)]
pub struct OwnedArguments {
    /// As postcard.
    bytes: Vec<u8>,
    to_json: fn(&[u8]) -> Result<Vec<u8>, CallError>,
}

impl OwnedArguments {
    /// Serializes the arguments of a method.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if one cannot be serialized.
    pub fn new<M: Method>(arguments: &ArgumentTypes<'_, M>) -> Result<Self, CallError> {
        let bytes = encode_arguments::<M>(Format::Postcard, arguments)?;
        Ok(Self { bytes, to_json: to_json::<M> })
    }

    /// Returns the arguments as postcard.
    pub fn as_postcard(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the arguments as JSON.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if one cannot be JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, CallError> {
        (self.to_json)(&self.bytes)
    }
}

fn to_json<M: Method>(bytes: &[u8]) -> Result<Vec<u8>, CallError> {
    let space = argument::decode::<M::Arguments>(Format::Postcard, bytes, M::SHAPE.names);
    let mut space = space.map_err(invalid_argument)?;
    match M::Arguments::borrow(&mut space) {
        Some(arguments) => encode_arguments::<M>(Format::Json, &arguments),
        None => Err(invalid_argument(CodecError::new("missing"))),
    }
}

/// Serializes the arguments of a method.
///
/// # Errors
///
/// `InvalidInput` if one cannot be serialized.
pub fn encode_arguments<M: Method>(
    format: Format,
    arguments: &ArgumentTypes<'_, M>,
) -> Result<Vec<u8>, CallError> {
    argument::encode::<M::Arguments>(format, arguments, M::SHAPE.names).map_err(invalid_argument)
}

/// Deserializes the result of a method.
///
/// # Errors
///
/// `InvalidOutput` if it does not match its type.
pub fn decode_result<M: Method>(format: Format, bytes: &[u8]) -> Result<M::Output, CallError> {
    format.decode(bytes).map_err(invalid_result)
}

#[cold]
fn no_result() -> CallError {
    CallError::new(CallErrorKind::InvalidOutput, "the call was answered without a result")
}

#[cold]
fn invalid_argument(error: CodecError) -> CallError {
    CallError::new(CallErrorKind::InvalidInput, "an argument cannot be serialized")
        .with_source(error)
}

#[cold]
fn invalid_result(error: CodecError) -> CallError {
    let message = "the result does not match its type";
    CallError::new(CallErrorKind::InvalidOutput, message).with_source(error)
}
