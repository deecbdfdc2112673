//! The values that callers and backends exchange: a request, a reply, and the state that a pooled
//! call shares with its caller.

mod method;
mod reply;
mod request;
mod state;

#[cfg(all(unix, feature = "process"))]
pub(crate) use method::MethodMessage;
pub(crate) use method::{MethodArguments, MethodRequest, StreamSlot};
pub(crate) use reply::Failure;
pub use reply::Reply;
pub(crate) use reply::ReplySlot;
pub use request::Request;
pub(crate) use state::CallState;
