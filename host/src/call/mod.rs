//! The values that callers and backends exchange: a request, a reply, and the state that a pooled
//! call shares with its caller.

mod chain;
mod method;
mod outgoing;
mod reply;
mod request;
mod state;

pub(crate) use chain::{Chain, RunningChain};
#[cfg(all(unix, feature = "process"))]
pub(crate) use method::MethodMessage;
pub(crate) use method::{EncodedArguments, MethodArguments, MethodRequest, NeedsJson, StreamSlot};
pub(crate) use outgoing::{
    BoundContract, Caller, ContractCalls, OuterBounds, OutgoingFuture, crossing,
};
pub(crate) use reply::Failure;
pub use reply::Reply;
pub(crate) use reply::ReplySlot;
pub use request::Request;
pub(crate) use state::{CallState, Entered};
