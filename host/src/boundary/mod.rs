//! The airlock: plugins inside this process. The only room of the host with `unsafe`; whoever
//! checks its blocks needs the invariants below and nothing else. Decides nothing.
//!
//! - **B1.** What points into a library is dropped, or never used again, before the library is
//!   closed: [`Instance`] and [`Root`] hold the [`Image`] that their functions lie in.
//! - **B2.** A library is closed by [`Image::close`] only, which wants the image by value: no
//!   other holder is left. An image that is dropped instead stays mapped for ever.
//! - **B3.** A function of a root module is called only after the module's layout was checked,
//!   so it has the type that this crate knows.
//! - **B4.** An instance is what `start` of the same module wrote; it is given to `shutdown` or
//!   `discard` once, and to nothing after that.
//! - **B5.** Pointers that are lent for a call are good until it returns; what the other side
//!   writes through them is written exactly when the returned code says so.
//! - **B6.** An output's bytes are freed by the library that made them. The image counts the
//!   outputs that are out, and is closed only when that count is zero.
//! - **B7.** A library's bytes were probed, and its digest accepted, before it is opened; what
//!   its initialisers do is the one thing that is taken on trust.

pub(crate) mod image;
pub(crate) mod invoke;
#[cfg(unix)]
mod mappings;
#[cfg(not(unix))]
#[path = "no_mappings.rs"]
mod mappings;
pub(crate) mod probe;
pub(crate) mod root;
pub(crate) mod services;
mod traces;

pub(crate) use image::{Close, Image};
pub(crate) use invoke::Instance;
pub(crate) use root::Root;
pub(crate) use traces::Variables;
