//! What callers and bodies exchange: a request in, a reply out, and how a call stands with whoever
//! made it.

mod failure;
mod headers;
mod reply;
mod request;
mod state;

pub(crate) use failure::Failure;
pub use reply::Reply;
pub use request::Request;
pub(crate) use state::CallState;
