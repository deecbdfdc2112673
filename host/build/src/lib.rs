//! Creates, builds and installs plugins, for `hotbay new`, `hotbay build` and `cargo xtask`.

pub mod cargo;
mod hint;
pub mod new_plugin;
pub mod plugins;
mod print;
mod workspace;

pub use hint::{Hinted, hint_of, print_error};
pub use workspace::{Package, Workspace};
