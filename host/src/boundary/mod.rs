//! Plugins inside this process. The only module of the host with `unsafe` that deals with plugins;
//! its blocks cite the invariants below. Makes no decisions.
//!
//! - **B1.** A pointer into a library is dropped, or never used again, before the library is
//!   closed: [`Instance`] and [`Root`] hold the [`Image`] of their functions.
//! - **B2.** A library is closed only by [`Image::close`], which takes the image by value: no
//!   other owner exists. An image that is dropped instead stays mapped forever.
//! - **B3.** A function of a root module is called only after the layout of the module was
//!   checked, so it has the type that this crate declares.
//! - **B4.** An instance is the value that `start` of the same module wrote. It is passed to
//!   `shutdown` or `discard` once, and to no function after that.
//! - **B5.** Pointers that are passed to a call are valid until it returns. The callee writes
//!   through them exactly if the returned code says so.
//! - **B6.** The bytes of an output are freed by the library that allocated them. The image counts
//!   live outputs, and is closed only if that count is zero.
//! - **B7.** A library's bytes were probed, and its digest accepted, before it is opened. Only the
//!   behavior of its initializers is trusted.

pub(crate) mod contract;
pub(crate) mod image;
pub(crate) mod invoke;
#[cfg(unix)]
mod mappings;
#[cfg(not(unix))]
#[path = "no_mappings.rs"]
mod mappings;
mod outgoing;
pub(crate) mod probe;
pub(crate) mod root;
pub(crate) mod services;
pub(crate) mod stream;
pub(crate) mod task;
mod traces;

pub(crate) use contract::{BindError, BoundMethod, Contracts, MethodFunctions};
pub(crate) use image::{Close, Image};
pub(crate) use invoke::{Instance, MethodFault, validate_config};
pub(crate) use root::{CallMeter, Root};
pub(crate) use stream::OpenStream;
pub(crate) use traces::Variables;
