//! A plugin as a program: the same [`Plugin`](crate::Plugin), called over a socket.
//!
//! The main thread starts the plugin, accepts connections and shuts everything down. Each
//! connection has a thread that reads its requests, calls the plugin and writes the responses, so
//! a call never changes threads. `PROTOCOL.md` specifies the protocol.

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
