//! How a generation serves the contracts of the application: found by name when a contract is first
//! used, and then read without a lock.

use std::fmt;
use std::sync::OnceLock;

use hotbay_plugin::contract::Format;
use hotbay_plugin::contract::internal::{DirectFn, OpenFn, SerializedFn, StartFn};

use crate::boundary::{BindError, BoundMethod, MethodFunctions};
use crate::contracts::{
    CHUNKS, ContractId, FIRST_CHUNK, FunctionRange, KnownContract, TABLE_LEN, TABLES,
};

/// How a generation serves one method of a contract.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MethodBinding {
    /// By a function with the caller's signature, and one for serialized arguments.
    Direct(DirectFn, SerializedFn),
    /// By a function that accepts the arguments as JSON.
    Converted(SerializedFn),
    /// By a task, which accepts the arguments in this format.
    Async(StartFn, Format),
    /// By a stream, which accepts the arguments in this format, and has its items in it.
    Stream(OpenFn, Format),
    /// By a process, which accepts the arguments in this format.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    Remote(Format),
    /// Not at all.
    Missing,
}

/// How a method of a contract is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServedMethod {
    /// Whether arguments are needed as JSON.
    pub(crate) needs_json: bool,
    /// Whether it runs as a task of a plugin in this process.
    pub(crate) is_task: bool,
}

/// The methods of a contract, in the caller's order; or the reason the contract is not served.
type Bound = Result<Box<[MethodBinding]>, BindError>;

/// The contracts of the application that a generation was called by.
pub(super) struct Bindings {
    /// Whether methods may be called on the brief path.
    is_brief: bool,
    chunks: [OnceLock<Box<[OnceLock<Bound>]>>; CHUNKS],
    /// The functions of methods with the caller's signature, for the brief path.
    functions: [OnceLock<Box<[OnceLock<DirectFn>; TABLE_LEN]>>; TABLES],
}

impl Bindings {
    /// Creates bindings without any contract.
    pub(super) fn new(is_brief: bool) -> Self {
        Self { is_brief, chunks: Default::default(), functions: Default::default() }
    }

    /// Returns the function of a method that has the caller's signature, if its contract was bound.
    #[inline(always)]
    pub(super) fn function(&self, range: FunctionRange, method: usize) -> Option<DirectFn> {
        self.functions[range.table()].get()?[range.place(method)].get().copied()
    }

    /// Returns the methods of a contract, which `bind` finds at the first call.
    pub(super) fn bound(
        &self,
        contract: &KnownContract,
        bind: impl FnOnce() -> Bound,
    ) -> Option<&Bound> {
        let ContractId { chunk, at } = contract.id;
        let places = self.chunks.get(chunk)?;
        let places = places.get_or_init(|| {
            std::iter::repeat_with(OnceLock::new).take(FIRST_CHUNK << chunk).collect()
        });
        let place = places.get(at)?;
        if place.get().is_none() {
            let bound = place.get_or_init(bind);
            if let (Some(range), Ok(methods)) = (contract.functions, bound)
                && self.is_brief
            {
                self.set_functions(range, methods);
            }
        }
        place.get()
    }

    /// Returns the function that starts an async method, if its contract was bound.
    pub(super) fn task(
        &self,
        contract: &KnownContract,
        method: usize,
    ) -> Option<(StartFn, Format)> {
        let ContractId { chunk, at } = contract.id;
        let bound = self.chunks.get(chunk)?.get()?.get(at)?.get()?.as_ref().ok()?;
        match bound.get(method)? {
            MethodBinding::Async(start, format) => Some((*start, *format)),
            _ => None,
        }
    }

    fn set_functions(&self, range: FunctionRange, methods: &[MethodBinding]) {
        let table = self.functions[range.table()]
            .get_or_init(|| Box::new([const { OnceLock::new() }; TABLE_LEN]));
        for (method, binding) in methods.iter().enumerate() {
            if let MethodBinding::Direct(function, _) = binding {
                // Another thread may have set it, to the same.
                let _ = table[range.place(method)].set(*function);
            }
        }
    }
}

impl From<BoundMethod> for MethodBinding {
    fn from(method: BoundMethod) -> Self {
        use MethodFunctions::{Async, Stream, Sync};
        match method {
            BoundMethod::Same(Sync { direct, serialized }) => Self::Direct(direct, serialized),
            BoundMethod::Same(Async { start }) => Self::Async(start, Format::Postcard),
            BoundMethod::Same(Stream { open }) => Self::Stream(open, Format::Postcard),
            BoundMethod::Converted(Stream { open }) => Self::Stream(open, Format::Json),
            BoundMethod::Converted(Sync { serialized, .. }) => Self::Converted(serialized),
            BoundMethod::Converted(Async { start }) => Self::Async(start, Format::Json),
            BoundMethod::Missing => Self::Missing,
        }
    }
}

impl fmt::Debug for Bindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bindings").finish_non_exhaustive()
    }
}
