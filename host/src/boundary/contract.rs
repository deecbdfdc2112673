//! The contracts that a plugin in this process serves: the tables of its library, checked against
//! their text.
//!
//! Besides the invariants of this folder:
//!
//! - **K1.** A table belongs to an image that holds it: its pointers are valid while that is mapped
//!   (B1).
//! - **K2.** A method is called with arguments as they are only if its signature equals the caller's,
//!   and the hash in the table is that of the text. So both sides have the same types for them.

use std::borrow::Cow;
use std::fmt;

use hotbay_plugin::contract::internal::{
    Description, DirectFn, MethodKind, OpenFn, RawContract, SerializedFn, StartFn,
};
use hotbay_plugin::contract::{Binding, ContractText, Incompatible, bind};

use crate::contracts::CONTRACT_HINT;
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
pub(crate) enum MethodFunctions {
    /// It returns its result.
    Sync { direct: DirectFn, serialized: SerializedFn },
    /// It starts a task.
    Async { start: StartFn },
    /// It returns a stream.
    Stream { open: OpenFn },
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
    Incompatible { error: Incompatible, hint: Cow<'static, str> },
}

impl BindError {
    /// Returns the error of a plugin that was built against another version.
    pub(crate) fn incompatible(error: Incompatible) -> Self {
        Self::Incompatible { error, hint: CONTRACT_HINT.into() }
    }
}

impl Contracts {
    /// Returns the contracts of a library by its tables and its exported text; fails if they do not
    /// match.
    pub(super) fn of_library(
        tables: &'static [RawContract],
        text: Option<&[u8]>,
    ) -> Result<Self, BoundaryError> {
        let texts = match text {
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
        let bindings = bind(caller, &served.text).map_err(BindError::incompatible)?;
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
            let functions = match expected.kind {
                MethodKind::Sync => method
                    .direct
                    .zip(method.serialized)
                    .map(|(direct, serialized)| MethodFunctions::Sync { direct, serialized }),
                MethodKind::Async => method.start.map(|start| MethodFunctions::Async { start }),
                MethodKind::Stream => method.open.map(|open| MethodFunctions::Stream { open }),
            };
            let lacks = || differs(format!("the method `{found}` lacks a function"));
            methods.push(functions.ok_or_else(lacks)?);
        }
        Ok(Self { text, methods })
    }
}

impl fmt::Debug for Contracts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts().map(|text| &text.name)).finish()
    }
}
