//! Runs one library of a plugin in this process, and serves it to its host over the protocol of
//! processes. A crash of the library ends this process and not the host.
//!
//! The host starts it as `hotbay-runner HOST-VERSION LIBRARY`, followed by the arguments of the
//! protocol. `capabilities` reads the library's file and runs nothing of it.

#[cfg(unix)]
mod isolated;
#[cfg(unix)]
mod opening_thread;

use std::process::ExitCode;

#[cfg(unix)]
fn main() -> ExitCode {
    use std::ffi::OsStr;

    let mut arguments = std::env::args_os().skip(1);
    let (host, library) = match (arguments.next(), arguments.next()) {
        (Some(version), None) if version == "--version" || version == "-V" => {
            return print(&format!("hotbay-runner {VERSION}"));
        }
        (Some(host), Some(library)) => (host, library),
        _ => {
            return refuse(
                "hotbay-runner: a host starts it as `hotbay-runner HOST-VERSION LIBRARY`, to run a \
                 library whose plugin.json has \"isolation\": \"process\"",
            );
        }
    };
    if host != OsStr::new(VERSION) {
        return refuse(&format!(
            "hotbay-runner has version {VERSION}, but the host has {}; install the runner of the \
             host's version: cargo install hotbay-runner --version {0}",
            host.to_string_lossy()
        ));
    }
    isolated::run(library.as_ref(), arguments)
}

#[cfg(not(unix))]
fn main() -> ExitCode {
    refuse("hotbay-runner: isolated libraries need Unix")
}

/// The version of this program, which is that of `hotbay`.
#[cfg(unix)]
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(unix)]
fn print(text: &str) -> ExitCode {
    use std::io::Write;

    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints why it does not start, and returns the exit code of invalid arguments.
fn refuse(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(2)
}
