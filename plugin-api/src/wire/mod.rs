//! HTTP on the thread that wants it, without a runtime: a socket that hyper reads and writes,
//! and a `block_on` that sleeps deadline one of them can go on. Shared by the host and by the SDK of
//! process plugins; not for authors.
//!
//! A call that another thread would make costs two changes of threads; a round trip over a local
//! socket costs little more than that itself.

mod block_on;
mod stream;
mod thread_waker;

pub use block_on::{block_on, sleep_until};
pub use stream::Stream;
