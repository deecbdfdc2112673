//! How a generation serves the contracts of the application: found by name when a contract is first
//! used, and then read without a lock.

use std::fmt;
use std::sync::OnceLock;

use hotbay_plugin::contract::Format;
use hotbay_plugin::contract::internal::{DirectFn, SerializedFn, StartFn};

use crate::boundary::{BindError, BoundMethod, MethodFunctions};
use crate::contracts::{CHUNKS, ContractId, FIRST_CHUNK, KnownContract};

/// How a generation serves one method of a contract.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MethodBinding {
    /// By a function with the caller's signature, and one for serialized arguments.
    Direct(DirectFn, SerializedFn),
    /// By a function that accepts the arguments as JSON.
    Converted(SerializedFn),
    /// By a task, which accepts the arguments in this format.
    Async(StartFn, Format),
    /// By a process, which accepts the arguments in this format.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    Remote(Format),
    /// Not at all.
    Missing,
}

/// The methods of a contract, in the caller's order; or the reason the contract is not served.
type Bound = Result<Box<[MethodBinding]>, BindError>;

/// The contracts of the application that a generation was called by.
#[derive(Default)]
pub(super) struct Bindings {
    chunks: [OnceLock<Box<[OnceLock<Bound>]>>; CHUNKS],
}

impl Bindings {
    /// Returns the binding of a method, if its contract was bound and is served.
    #[inline(always)]
    pub(super) fn get(&self, id: ContractId, method: usize) -> Option<&MethodBinding> {
        self.chunks.get(id.chunk)?.get()?.get(id.at)?.get()?.as_ref().ok()?.get(method)
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
        Some(places.get(at)?.get_or_init(bind))
    }
}

impl From<BoundMethod> for MethodBinding {
    fn from(method: BoundMethod) -> Self {
        use MethodFunctions::{Async, Sync};
        match method {
            BoundMethod::Same(Sync { direct, serialized }) => Self::Direct(direct, serialized),
            BoundMethod::Same(Async { start }) => Self::Async(start, Format::Postcard),
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
