//! Runs HTTP on the current thread, without a runtime. Shared by the host and the SDK of process
//! plugins; not for plugin authors.
//!
//! [`Stream`] is a socket for hyper, and [`block_on()`] sleeps until one of the sockets is ready.
//! Handing a call to another thread would cost two context switches, which is almost as much as a
//! round trip over a local socket.

mod block_on;
mod spin;
mod stream;

pub use block_on::{block_on, sleep_until};
pub use spin::Spin;
pub use stream::Stream;
#[cfg(feature = "serve")]
pub(crate) use stream::with_read_buffer;
