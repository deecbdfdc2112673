//! A plugin as a program of its own: the same [`Plugin`](crate::Plugin), called over a socket.
//!
//! The main thread starts the plugin, accepts connections, and ends everything. Each connection
//! has a thread, on which its requests are read, answered by the plugin and written: no call
//! changes threads. Nothing here knows who the host is. The protocol is told in `PROTOCOL.md`.

mod macros;

#[cfg(all(unix, feature = "serve"))]
mod answers;
#[cfg(all(unix, feature = "serve"))]
mod arguments;
#[cfg(all(unix, feature = "serve"))]
mod batch;
#[cfg(all(unix, feature = "serve"))]
mod bell;
#[cfg(all(unix, feature = "serve"))]
mod body;
#[cfg(all(unix, feature = "serve"))]
mod call;
#[cfg(all(unix, feature = "serve"))]
mod capabilities;
#[cfg(all(unix, feature = "serve"))]
mod connection;
#[cfg(all(unix, feature = "serve"))]
mod door;
#[cfg(all(unix, feature = "serve"))]
mod duration;
#[cfg(all(unix, feature = "serve"))]
mod instance;
#[cfg(all(unix, feature = "serve"))]
mod life;
#[cfg(all(unix, feature = "serve"))]
mod line;
#[cfg(all(unix, feature = "serve"))]
mod lock;
#[cfg(all(unix, feature = "serve"))]
mod presence;
#[cfg(all(unix, feature = "serve"))]
mod program;
#[cfg(all(unix, feature = "serve"))]
mod routes;
#[cfg(all(unix, feature = "serve"))]
mod settings;
#[cfg(all(unix, feature = "serve"))]
mod stderr;
#[cfg(all(unix, feature = "serve"))]
mod token;
#[cfg(all(unix, feature = "serve"))]
mod way_back;

#[cfg(all(unix, feature = "serve"))]
pub use program::{Endpoint, Program};
