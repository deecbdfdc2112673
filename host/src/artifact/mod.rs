//! Turns a folder on disk into a private copy that no other user can change. Finds, checks, reads,
//! verifies and stages files; never opens a library and runs none of its bytes.

pub(crate) mod digest;
pub(crate) mod discover;
pub(crate) mod locate;
pub(crate) mod private_folder;
#[cfg(all(unix, feature = "process"))]
pub(crate) mod program;
pub(crate) mod signature;
pub(crate) mod stage;
pub(crate) mod trust;
