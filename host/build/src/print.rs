//! Errors with advice for the user, and lines. Escapes control characters in them. A closed reader is
//! not an error, and nothing here panics.

use std::error::Error;
use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::{fmt, io};

use anyhow::Context;
use hotbay_plugin::text::{Lines, escaped};

/// Prints a line on stdout.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let text = text.to_string();
    match writeln!(stdout, "{}", escaped(&text, Lines::Many)).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// Prints a line on stderr, if that is possible.
pub(crate) fn message(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", escaped(&text.to_string(), Lines::Many));
}

/// Prints the messages of a compiler on stderr as they are, with its colors, if that is possible.
pub(crate) fn pass_on(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Returns a path as a word of a shell command.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%,:=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// An error with a hint, which is not part of its message.
#[derive(Debug)]
pub struct Hinted {
    message: String,
    hint: String,
}

impl Hinted {
    /// Creates an error from a message and a hint.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Hinted {}

/// Returns the hint of an error or of one of its causes.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    // The first finds a hint given as context, the second one of a source.
    let hinted = error.downcast_ref::<Hinted>();
    let hinted = hinted.or_else(|| error.chain().find_map(|cause| cause.downcast_ref()));
    hinted.map(|hinted: &Hinted| hinted.hint.as_str())
}

/// Prints an error with its causes on stderr, and its hint on the next line.
pub fn print_error(error: &anyhow::Error) {
    message(format_args!("error: {error:#}"));
    if let Some(hint) = hint_of(error) {
        message(format_args!("  hint: {hint}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_commands_are_quoted() {
        assert_eq!(quoted(Path::new("a/b-1.x")), "a/b-1.x");
        assert_eq!(quoted(Path::new("a b/it's")), r"'a b/it'\''s'");
    }
}
