//! Turns a folder on disk into a private copy that no other user can change. Finds, checks, reads,
//! verifies and stages files; never opens a library and runs none of its bytes.

#[cfg(all(unix, feature = "process"))]
mod beside;
pub(crate) mod dependencies;
pub(crate) mod digest;
pub(crate) mod discover;
pub(crate) mod folder_lock;
pub(crate) mod locate;
mod private_folder;
#[cfg(all(unix, feature = "process"))]
pub(crate) mod program;
pub(crate) mod stage;
pub(crate) mod staged;
pub(crate) mod sweep;
pub(crate) mod trust;
