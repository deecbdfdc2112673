//! Methods of a contract: what the macro generates for each, and the C functions that serve them.

use super::argument::{self, Arguments};
use super::codec::{CodecError, Format};
use super::data::Data;
use super::error::CallError;
use super::form::Form;
use super::function::Passed;
use super::shape::MethodShape;
use super::table::code;
use crate::PluginError;
use crate::context::{RawContext, in_context};
use crate::export::{Failure, guard, report_failure};
use crate::payload::{Output, RawPayload};
use crate::root::{self, RawFault, RawInstance};

/// A method of a contract. The macro implements it.
pub trait Method: 'static {
    /// Its arguments, as a list of pairs.
    type Arguments: Passed;
    /// Its result, or an item of its stream.
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

pub(super) type OutputForm<M> = <<M as Method>::Output as Data>::Form;
pub(super) type RawResult<M> = <OutputForm<M> as Form<<M as Method>::Output>>::RawResult;

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

// Invariants of the functions of methods, kept by the host (`boundary/contract.rs`):
// M1: the instance was started by the library that owns the table, and was not stopped.
// M2: the pointers are valid until the function returns, and have the types of the method's
//     signature, whose text and hash both sides compared.

pub(super) unsafe extern "C" fn serialized<T, M: Serves<T>, const LINKED: bool>(
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
pub(super) unsafe fn run_guarded<const LINKED: bool>(
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
pub(super) fn call_serialized<T, M: Serves<T>>(
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
    pub(super) fn with(&mut self, part: Self, error: &CodecError) -> PluginError {
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
