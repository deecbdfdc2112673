//! The contracts that a plugin in this process serves: the tables of its library, checked against
//! their text, and calls of their methods.
//!
//! Besides the invariants of this folder:
//!
//! - **K1.** A table belongs to an image that holds it: its pointers are valid while that is mapped
//!   (B1).
//! - **K2.** A method is called with arguments as they are only if its signature equals the caller's,
//!   and the hash in the table is that of the text. So both sides have the same types for them.

use std::ffi::CStr;
use std::fmt;
use std::mem::MaybeUninit;

use hotbay_plugin::PluginError;
use hotbay_plugin::abi::{OutputSlot, RawContext, RawFault, RawPayload, code};
use hotbay_plugin::contract::internal::{
    Description, DirectFn, MethodCall, RawContract, SerializedFn, code as contract_code,
};
use hotbay_plugin::contract::{Binding, ContractText, Format, Incompatible, bind};

use super::invoke::{Instance, failure};
use super::{Image, Root};
use crate::call::Failure;
use crate::error::boundary::BoundaryError;

/// The contracts that the code of an image serves.
#[derive(Default)]
pub(crate) struct Contracts(Vec<Served>);

struct Served {
    text: ContractText,
    methods: Vec<MethodFunctions>,
}

/// The functions of a method: K1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MethodFunctions {
    direct: DirectFn,
    serialized: SerializedFn,
}

/// A method of a caller's contract in a plugin of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BoundMethod {
    /// It has the caller's signature.
    Same(MethodFunctions),
    /// It has another signature, which accepts the caller's arguments as JSON.
    Converted(MethodFunctions),
    /// The plugin was built against an earlier version without it.
    Missing,
}

/// The reason a plugin does not serve a contract.
#[derive(Clone, Debug)]
pub(crate) enum BindError {
    /// It serves no contract of this name.
    NotServed,
    /// It serves an incompatible version of the contract.
    Incompatible(Incompatible),
}

impl Contracts {
    /// Returns the contracts of a library; fails if the tables do not match their text.
    pub(super) fn of_library(image: &Image, root: Root) -> Result<Self, BoundaryError> {
        let tables = tables_of(root);
        let texts = match text_of(image) {
            Some(text) => ContractText::parse_exported(text).map_err(|error| {
                BoundaryError::Contracts(format!("their text is invalid: {error}"))
            })?,
            None => Vec::new(),
        };
        if tables.len() != texts.len() {
            let (found, expected) = (tables.len(), texts.len());
            let message = format!("the library has {found} tables and the text of {expected}");
            return Err(BoundaryError::Contracts(message));
        }
        let served = tables.iter().zip(texts).map(|(table, text)| Served::new(table, text));
        served.collect::<Result<_, _>>().map(Self)
    }

    /// Returns the contracts of a type of this program.
    pub(crate) fn compiled_in(
        contracts: &[(&'static Description, RawContract)],
    ) -> Result<Self, BoundaryError> {
        let served = contracts.iter().map(|(description, table)| {
            let texts = ContractText::parse(&description.text());
            let text = texts.ok().and_then(|mut texts| texts.pop());
            let text = text.ok_or_else(|| BoundaryError::Contracts("invalid text".to_owned()))?;
            Served::new(table, text)
        });
        served.collect::<Result<_, _>>().map(Self)
    }

    /// Returns their texts.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &ContractText> {
        self.0.iter().map(|served| &served.text)
    }

    /// Finds the methods of a caller's contract.
    pub(crate) fn bind(&self, caller: &ContractText) -> Result<Box<[BoundMethod]>, BindError> {
        let served = self.0.iter().find(|served| served.text.name == caller.name);
        let served = served.ok_or(BindError::NotServed)?;
        let bindings = bind(caller, &served.text).map_err(BindError::Incompatible)?;
        let bound = bindings.into_iter().map(|binding| match binding {
            Binding::Same(at) => BoundMethod::Same(served.methods[at]),
            Binding::Converted(at) => BoundMethod::Converted(served.methods[at]),
            Binding::Missing => BoundMethod::Missing,
        });
        Ok(bound.collect())
    }
}

impl Served {
    /// Compares a table with its text.
    fn new(table: &RawContract, text: ContractText) -> Result<Self, BoundaryError> {
        let name = text.name.clone();
        let differs = |what: String| {
            BoundaryError::Contracts(format!("table and text of `{name}` differ: {what}"))
        };
        // SAFETY: K1.
        let found = unsafe { table.name.get() };
        if found != text.name || table.method_count != text.methods.len() {
            let found = format!("found the table of `{found}` with {} methods", table.method_count);
            return Err(differs(found));
        }
        let mut methods = Vec::with_capacity(text.methods.len());
        for (at, expected) in text.methods.iter().enumerate() {
            // SAFETY: K1.
            let method = unsafe { table.method(at) };
            let method = method.ok_or_else(|| differs(format!("it has no method {at}")))?;
            // SAFETY: K1.
            let found = unsafe { method.name.get() };
            if found != expected.name || method.hash != expected.hash() {
                let expected = &expected.signature;
                return Err(differs(format!("found the method `{found}`, expected `{expected}`")));
            }
            methods.push(MethodFunctions { direct: method.direct, serialized: method.serialized });
        }
        Ok(Self { text, methods })
    }
}

/// Returns the tables of a library; none if it was built before API 1.1.
fn tables_of(root: Root) -> &'static [RawContract] {
    let Some(contracts) = root.module().contracts() else { return &[] };
    let mut count = 0;
    // SAFETY: B3, B5.
    let first = unsafe { contracts(&raw mut count) };
    if first.is_null() {
        return &[];
    }
    // SAFETY: B3 (the function returns the address of so many tables), K1.
    unsafe { std::slice::from_raw_parts(first.cast(), count) }
}

/// Returns the exported text of a library, up to its NUL.
fn text_of(image: &Image) -> Option<&[u8]> {
    let text = image.symbol(c"HOTBAY_PLUGIN_CONTRACTS")?;
    // SAFETY: B7 (the probe found a NUL after the start of the text in the file), K1.
    Some(unsafe { CStr::from_ptr(text.cast()) }.to_bytes())
}

impl Instance {
    /// Calls a method with arguments as they are. A failure goes through `fail`.
    #[inline(always)]
    pub(crate) fn call_method<E>(
        &self,
        method: &MethodFunctions,
        context: &RawContext<'_>,
        call: &MethodCall<'_>,
        fail: impl FnOnce(Failure) -> E,
    ) -> Result<(), E> {
        let mut fault = MaybeUninit::uninit();
        let function = |arguments, result| {
            // SAFETY: B4, B5, K1, K2.
            unsafe { (method.direct)(self.raw(), context, arguments, result, fault.as_mut_ptr()) }
        };
        // SAFETY: K2.
        let code = unsafe { call.run(function) };
        if code == code::OK {
            return Ok(());
        }
        // SAFETY: B5.
        Err(fail(unsafe { method_failure(code, fault) }))
    }

    /// Calls a method with serialized arguments.
    pub(crate) fn call_serialized(
        &self,
        method: &MethodFunctions,
        context: &RawContext<'_>,
        format: Format,
        arguments: &RawPayload<'_>,
        output: &mut OutputSlot,
    ) -> Result<(), Failure> {
        let mut fault = MaybeUninit::uninit();
        // SAFETY: B4, B5, K1.
        let code = unsafe {
            (method.serialized)(
                self.raw(),
                context,
                format.code(),
                arguments,
                output.as_mut_ptr(),
                fault.as_mut_ptr(),
            )
        };
        if code == code::OK {
            // SAFETY: B5 (the code says so).
            unsafe { output.set_written() };
            return Ok(());
        }
        // SAFETY: B5.
        Err(unsafe { method_failure(code, fault) })
    }
}

/// Decodes the failure of a method.
///
/// # Safety
///
/// As for `failure`.
#[cold]
unsafe fn method_failure(code: i32, fault: MaybeUninit<RawFault>) -> Failure {
    let convert: fn(PluginError) -> Failure = match code {
        contract_code::BAD_ARGUMENTS => Failure::BadArguments,
        contract_code::BAD_RESULT => Failure::BadResult,
        // SAFETY: this function's contract.
        _ => return unsafe { failure(code, fault) },
    };
    // SAFETY: B5 (both codes say that it was written).
    convert(unsafe { fault.assume_init() }.to_error())
}

impl fmt::Debug for Contracts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts().map(|text| &text.name)).finish()
    }
}
