//! Test support: fixture plugins built on demand and installed into temporary folders, and helpers
//! that wait for events or inspect processes.

mod artifacts;
#[cfg(unix)]
mod child_processes;
#[cfg(unix)]
mod go;
mod hostile_text;
mod hosts;
#[cfg(unix)]
mod kills;
#[cfg(unix)]
mod orphans;
mod plugins;
#[cfg(unix)]
mod proc;
mod process;
#[cfg(unix)]
mod programs;
mod signing;
mod subprocess;
mod traffic;
mod waiting;

pub use artifacts::{binary, library, runner};
#[cfg(unix)]
pub use child_processes::{ChildOutput, cargo, compiler, library_of, messages, run_to_end};
#[cfg(unix)]
pub use go::{go_environment, go_program};
pub use hostile_text::{HOSTILE, HOSTILE_ESCAPED, steers};
pub use hosts::{host, limits, lines_of, loaded, quarantine, refused, reloaded, rolled_back};
#[cfg(unix)]
pub use kills::{Killed, Kills, kill_often};
#[cfg(unix)]
pub use orphans::{Orphaned, host_until_killed, orphan};
pub use plugins::{Plugin, Plugins, library_file_name};
#[cfg(unix)]
pub use proc::{
    ResourceSnapshot, children, descriptors, end_process, launch_folders, marked_processes,
    marks_below, processes_of,
};
pub use process::{images, mappings, threads, unique};
#[cfg(unix)]
pub use programs::{ProgramFolder, foreign_elf, has_interpreter, launches, set_behavior, state_of};
pub use signing::{SIGNATURE, SIGNED_FILES, SigningKey};
pub use subprocess::{rerun_test, run_in_subprocess};
pub use traffic::{Traffic, under_load};
pub use waiting::{CancelOnDrop, LIMIT, StopOnDrop, block_on, event, events_until, until};
