//! Creates, builds and installs plugins, for `hotbay new`, `hotbay build` and `cargo xtask`.

#![allow(clippy::print_stdout, reason = "progress and results are printed for the commands")]

pub mod cargo;
mod hint;
pub mod new_plugin;
pub mod plugins;
mod workspace;

pub use hint::{Hinted, hint_of, print_error};
pub use workspace::{Package, Workspace};
