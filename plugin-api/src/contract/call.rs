//! The caller's side of a method: its arguments on their way to the plugin, and its result.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::argument::{self, Arguments};
use super::codec::{CodecError, Format};
use super::error::{CallError, CallErrorKind};
use super::form::Form;
use super::function::{Invocation, Passed};
use super::method::{ArgumentTypes, Method, OutputForm, RawResult};
use crate::root;

type Store<M> = <<M as Method>::Arguments as Arguments>::Store;

/// A call of the method `M`, with prepared arguments. Those that cross as they are stay where the
/// caller has them.
pub struct TypedCall<'v, 'a, M: Method> {
    values: &'v ArgumentTypes<'a, M>,
    store: Store<M>,
}

/// The result of a method as it crossed.
pub struct TypedResult<M: Method>(RawResult<M>);

impl<'v, 'a, M: Method> TypedCall<'v, 'a, M> {
    /// Prepares the arguments.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if one cannot be serialized.
    #[inline(always)]
    pub fn new(values: &'v ArgumentTypes<'a, M>) -> Result<Self, CallError> {
        match M::Arguments::prepare(values) {
            Ok(store) => Ok(Self { values, store }),
            Err(error) => Err(invalid_argument(error)),
        }
    }

    /// Returns the arguments as they cross.
    #[inline(always)]
    pub fn lower(&self) -> LoweredCall<'_, M> {
        LoweredCall { raw: M::Arguments::lower(self.values, &self.store), lifetime: PhantomData }
    }

    /// Passes the call to `run`, which may serialize it. That returns the serialized result with its
    /// format if the result was not written.
    ///
    /// # Errors
    ///
    /// Those of `run`; `InvalidOutput` for a result that does not match its type.
    #[cold]
    #[inline(never)]
    pub fn erased<R: AsRef<[u8]>>(
        &self,
        run: impl FnOnce(&MethodCall<'_>) -> Result<Option<(Format, R)>, CallError>,
    ) -> Result<M::Output, CallError> {
        let mut result = MaybeUninit::<RawResult<M>>::uninit();
        let mut output: ReadOutput<M> = None;
        let call = MethodCall {
            values: ptr::from_ref(self.values).cast(),
            store: (&raw const self.store).cast(),
            result: result.as_mut_ptr().cast(),
            output: (&raw mut output).cast(),
            is_written: AtomicBool::new(false),
            is_read: AtomicBool::new(false),
            functions: FunctionsOf::<M>::FUNCTIONS,
            lifetime: PhantomData,
        };
        let outcome = run(&call);
        call.drop_result();
        match outcome {
            Ok(None) => output.unwrap_or_else(|| Err(no_result())),
            Ok(Some((format, result))) => decode_result::<M>(format, result.as_ref()),
            Err(error) => Err(error),
        }
    }
}

/// The result of a method, once it was read.
type ReadOutput<M> = Option<Result<<M as Method>::Output, CallError>>;

/// The arguments of a [`TypedCall`] as they cross.
pub struct LoweredCall<'c, M: Method> {
    raw: <M::Arguments as Arguments>::Raw,
    /// Of what it borrows from.
    lifetime: PhantomData<&'c ()>,
}

impl<M: Method> LoweredCall<'_, M> {
    /// Returns the number of bytes of the arguments.
    #[inline(always)]
    pub fn byte_len(&self) -> usize {
        M::Arguments::byte_len(&self.raw)
    }

    /// Calls a function; fails with its code.
    ///
    /// # Errors
    ///
    /// The code of the function, if it is not zero.
    ///
    /// # Safety
    ///
    /// The function serves this method, and the pointers are valid for it: M1 and M2 of `method.rs`.
    #[inline(always)]
    pub unsafe fn invoke(self, call: Invocation<'_>) -> Result<TypedResult<M>, i32> {
        let mut result = MaybeUninit::<RawResult<M>>::uninit();
        // SAFETY: this function's contract; the result has the method's type.
        match unsafe { M::Arguments::pass(call, self.raw, result.as_mut_ptr().cast()) } {
            // SAFETY: the function has written it.
            root::code::OK => Ok(TypedResult(unsafe { result.assume_init() })),
            code => Err(code),
        }
    }
}

impl<M: Method> TypedResult<M> {
    /// Returns the number of bytes that the result owns.
    #[inline(always)]
    pub fn byte_len(&self) -> usize {
        if OutputForm::<M>::OWNS_RESULT { OutputForm::<M>::result_len(&self.0) } else { 0 }
    }

    /// Returns the value.
    ///
    /// # Errors
    ///
    /// `InvalidOutput` if it does not match its type.
    #[inline(always)]
    pub fn into_output(self) -> Result<M::Output, CallError> {
        // SAFETY: F1 and F3 of `form.rs`: a function of this method has written it.
        match unsafe { OutputForm::<M>::lift_result(self.0) } {
            Ok(output) => Ok(output),
            Err(error) => Err(invalid_result(M::SHAPE.name, error)),
        }
    }
}

impl<M: Method> fmt::Debug for TypedCall<'_, '_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedCall").field("method", &M::SHAPE.name).finish_non_exhaustive()
    }
}

impl<M: Method> fmt::Debug for LoweredCall<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoweredCall").field("method", &M::SHAPE.name).finish_non_exhaustive()
    }
}

impl<M: Method> fmt::Debug for TypedResult<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedResult").field("method", &M::SHAPE.name).finish_non_exhaustive()
    }
}

/// A [`TypedCall`] with its type removed, and space for the result as it crosses and as it is read.
pub struct MethodCall<'a> {
    values: *const c_void,
    store: *const c_void,
    result: *mut c_void,
    output: *mut c_void,
    is_written: AtomicBool,
    is_read: AtomicBool,
    functions: &'static Functions,
    lifetime: PhantomData<&'a mut ()>,
}

/// Functions for the erased types of a method.
#[derive(Debug)]
struct Functions {
    byte_len: unsafe fn(*const c_void, *const c_void) -> usize,
    invoke: unsafe fn(Invocation<'_>, &MethodCall<'_>) -> i32,
    result_len: unsafe fn(*const c_void) -> usize,
    drop_result: unsafe fn(*mut c_void),
    read_result: unsafe fn(*mut c_void, *mut c_void),
    encode: unsafe fn(*const c_void, Format) -> Result<Vec<u8>, CallError>,
    to_json: fn(&[u8]) -> Result<Vec<u8>, CallError>,
}

// SAFETY: the arguments are data that any thread may read. The result and the output are accessed by
// the call that sets `is_written` and `is_read`, and by nothing else until that has returned.
unsafe impl Send for MethodCall<'_> {}
// SAFETY: as above.
unsafe impl Sync for MethodCall<'_> {}

impl MethodCall<'_> {
    /// Returns the number of bytes of the arguments.
    pub fn byte_len(&self) -> usize {
        // SAFETY: the values and their store live as long as the call, and the function is that of
        // their types.
        unsafe { (self.functions.byte_len)(self.values, self.store) }
    }

    /// Calls a function with the arguments as they are, and returns its code; the result is written if
    /// that is zero.
    ///
    /// # Safety
    ///
    /// The function serves this method, and the pointers are valid for it: M1 and M2 of `method.rs`.
    pub unsafe fn invoke(&self, call: Invocation<'_>) -> i32 {
        self.drop_result();
        self.is_read.store(false, Ordering::Relaxed);
        // SAFETY: this function's contract.
        let code = unsafe { (self.functions.invoke)(call, self) };
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

    /// Reads the result that was written. It may be in memory of the plugin, so the caller holds the
    /// lease of the call.
    pub fn read_result(&self) {
        if self.is_written.swap(false, Ordering::Relaxed) {
            self.is_read.store(true, Ordering::Relaxed);
            // SAFETY: a result was written, and is read once.
            unsafe { (self.functions.read_result)(self.result, self.output) }
        }
    }

    /// Returns whether the result was read.
    pub fn is_read(&self) -> bool {
        self.is_read.load(Ordering::Relaxed)
    }

    /// Returns whether the result was written, and not read.
    fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes that the written result owns.
    pub fn result_len(&self) -> usize {
        if !self.is_written() {
            return 0;
        }
        // SAFETY: a result was written, and the function is that of its type.
        unsafe { (self.functions.result_len)(self.result) }
    }

    /// Drops the written result, if it was not read.
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
            .field("byte_len", &self.byte_len())
            .field("is_written", &self.is_written())
            .finish_non_exhaustive()
    }
}

struct FunctionsOf<M>(PhantomData<M>);

impl<M: Method> FunctionsOf<M> {
    const FUNCTIONS: &'static Functions = &Functions {
        byte_len: byte_len::<M>,
        invoke: invoke::<M>,
        result_len: result_len::<M>,
        drop_result: drop_result::<M>,
        read_result: read_result::<M>,
        encode: encode::<M>,
        to_json: to_json::<M>,
    };
}

unsafe fn byte_len<M: Method>(values: *const c_void, store: *const c_void) -> usize {
    // SAFETY: the caller passes the arguments of this method, and what was prepared for them.
    let values = unsafe { &*values.cast::<ArgumentTypes<'_, M>>() };
    // SAFETY: as above.
    let store = unsafe { &*store.cast::<Store<M>>() };
    M::Arguments::byte_len(&M::Arguments::lower(values, store))
}

unsafe fn invoke<M: Method>(call: Invocation<'_>, to: &MethodCall<'_>) -> i32 {
    // SAFETY: the caller passes a call of this method.
    let values = unsafe { &*to.values.cast::<ArgumentTypes<'_, M>>() };
    // SAFETY: as above.
    let store = unsafe { &*to.store.cast::<Store<M>>() };
    // SAFETY: `MethodCall::invoke` requires it.
    unsafe { M::Arguments::pass(call, M::Arguments::lower(values, store), to.result) }
}

unsafe fn result_len<M: Method>(result: *const c_void) -> usize {
    // SAFETY: the caller passes a written result of this method.
    OutputForm::<M>::result_len(unsafe { &*result.cast::<RawResult<M>>() })
}

unsafe fn drop_result<M: Method>(result: *mut c_void) {
    // SAFETY: as above; it is not read again.
    unsafe { result.cast::<RawResult<M>>().drop_in_place() }
}

unsafe fn read_result<M: Method>(result: *mut c_void, output: *mut c_void) {
    // SAFETY: the caller passes a written result of this method, which is not read again.
    let result = TypedResult::<M>(unsafe { result.cast::<RawResult<M>>().read() });
    // SAFETY: the caller passes the space for the output of this method.
    unsafe { *output.cast::<ReadOutput<M>>() = Some(result.into_output()) }
}

unsafe fn encode<M: Method>(values: *const c_void, format: Format) -> Result<Vec<u8>, CallError> {
    // SAFETY: the caller passes the arguments of this method.
    let values = unsafe { &*values.cast::<ArgumentTypes<'_, M>>() };
    encode_arguments::<M>(format, values)
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
    format.decode(bytes).map_err(|error| invalid_result(M::SHAPE.name, error))
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
fn invalid_result(method: &str, error: CodecError) -> CallError {
    let message = format!("the result of method `{method}` does not match its type");
    CallError::new(CallErrorKind::InvalidOutput, message).with_source(error)
}
