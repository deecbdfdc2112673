//! Serves a [`Plugin`](crate::Plugin) as a program that a host calls over a socket.
//!
//! The main thread starts the plugin, accepts connections and shuts everything down. Each
//! connection has a thread that reads its requests, calls the plugin and writes the responses, so
//! a call never changes threads. `PROTOCOL.md` specifies the protocol.

mod macros;

#[cfg(all(unix, feature = "serve"))]
mod activity;
#[cfg(all(unix, feature = "serve"))]
mod batch;
#[cfg(all(unix, feature = "serve"))]
mod body;
#[cfg(all(unix, feature = "serve"))]
mod call_headers;
#[cfg(all(unix, feature = "serve"))]
mod capabilities;
#[cfg(all(unix, feature = "serve"))]
mod command_line;
#[cfg(all(unix, feature = "serve"))]
mod connection;
#[cfg(all(unix, feature = "serve"))]
mod connections;
#[cfg(all(unix, feature = "serve"))]
mod console;
#[cfg(all(unix, feature = "serve"))]
mod duration;
#[cfg(all(unix, feature = "serve"))]
mod host_client;
#[cfg(all(unix, feature = "serve"))]
mod instance;
#[cfg(all(unix, feature = "serve"))]
mod lifecycle;
#[cfg(all(unix, feature = "serve"))]
mod listener;
#[cfg(all(unix, feature = "serve"))]
mod lock;
#[cfg(all(unix, feature = "serve"))]
mod program;
#[cfg(all(unix, feature = "serve"))]
mod responses;
#[cfg(all(unix, feature = "serve"))]
mod routes;
#[cfg(all(unix, feature = "serve"))]
mod settings;
#[cfg(all(unix, feature = "serve"))]
mod stop_signal;
#[cfg(all(unix, feature = "serve"))]
mod token;

#[cfg(all(unix, feature = "serve"))]
pub use program::{Endpoint, Program};
