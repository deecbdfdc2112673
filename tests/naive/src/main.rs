//! A plugin host as usually written, with one subcommand for each way in which it fails.
//!
//! Prints its results, and exits with code 0 if it gets that far.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "this program opens libraries the naive way"
)]

mod checks;
mod files;
mod panics;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    no_core_dump();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["panic-out-of-c", library] => panics::out_of_c(Path::new(library)),
        ["panic-into-host", library] => panics::into_host(Path::new(library)),
        ["panic-in-object", library] => panics::in_object(Path::new(library)),
        ["panic-printed", library] => panics::printed(Path::new(library)),
        ["payload", library] => panics::payload(Path::new(library)),
        ["check-and-keep", libraries @ ..] => checks::one_after_the_other(libraries, true),
        ["check-and-close", libraries @ ..] => checks::one_after_the_other(libraries, false),
        ["load", libraries @ ..] => checks::load_from_file(libraries),
        ["open", library] => files::open(Path::new(library)),
        ["replaced", library, newer] => files::replaced(Path::new(library), Path::new(newer)),
        _ => {
            eprintln!("unknown arguments: {arguments:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// This program crashes on purpose; a core dump is useless.
fn no_core_dump() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads the struct, and changes a limit of this process only.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}
