//! The values that callers and backends exchange: a request, a reply, and the state that a pooled
//! call shares with its caller.

mod failure;
mod headers;
mod reply;
mod request;
mod state;

pub(crate) use failure::Failure;
pub use reply::Reply;
pub use request::Request;
pub(crate) use state::CallState;
