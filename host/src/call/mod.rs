//! What callers and bodies exchange: a request in, a reply out, and how a call stands with whoever
//! made it.

mod failure;
mod headers;
mod reply;
mod request;
mod standing;

pub(crate) use failure::Failure;
pub use reply::Reply;
pub use request::Request;
pub(crate) use standing::Standing;
