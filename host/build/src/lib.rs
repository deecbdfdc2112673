//! Creates, builds and installs plugins, for `hotbay new`, `hotbay build` and `cargo xtask`.

pub mod cargo;
pub mod new_plugin;
pub mod plugins;
mod print;

pub use cargo::{Package, Workspace};
pub use print::{Hinted, hint_of, print_error};
