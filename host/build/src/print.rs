//! Prints lines, and escapes control characters in them. A closed reader is not an error, and
//! nothing here panics.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

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

/// Returns a path as a word of a shell command.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%,:=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
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
