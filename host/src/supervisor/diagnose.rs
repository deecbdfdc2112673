//! Why a program did not start, and what to do about it.
use super::lines::Tail;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
pub(crate) fn of_spawn(error: &io::Error, _: &Path) -> String {
    error.to_string()
}
pub(crate) fn of_exit(status: ExitStatus, _: &Path, tail: &Tail) -> String {
    format!("{status}: {tail}")
}
