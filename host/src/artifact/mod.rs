//! The loading dock: from a folder on disk to a private copy that nobody else can change.
//! Finds, trusts, reads, verifies and stages; never opens a library and runs none of its bytes.

#[cfg(unix)]
mod beside;
pub(crate) mod dependencies;
pub(crate) mod digest;
pub(crate) mod discover;
pub(crate) mod folder_lock;
pub(crate) mod locate;
mod private_folder;
#[cfg(unix)]
pub(crate) mod program;
pub(crate) mod stage;
pub(crate) mod staged;
pub(crate) mod sweep;
pub(crate) mod trust;
