//! A broken rule, and the files that rules read.

use std::fmt;

/// A broken rule, printed as `error: file:line: message` with a hint on the next line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) file: String,
    /// From 1.
    pub(super) line: usize,
    pub(super) message: String,
    hint: String,
    pub(super) severity: Severity,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Reported without failing.
    Warning,
    Error,
}

impl Problem {
    pub(super) fn error(file: &str, line: usize, message: String, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, message, hint: hint.into(), severity: Severity::Error }
    }

    pub(super) fn warning(
        file: &str,
        line: usize,
        message: String,
        hint: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, line, message, hint) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let Self { file, line, message, hint, .. } = self;
        write!(f, "{severity}: {file}:{line}: {message}\n  hint: {hint}")
    }
}

/// A file of the repository; `path` is relative to the root and uses `/`.
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

/// Returns the problems that `check` finds, as they are printed.
#[cfg(test)]
pub(super) fn render(check: impl FnOnce(&mut Vec<Problem>)) -> Vec<String> {
    let mut problems = Vec::new();
    check(&mut problems);
    problems.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
impl File {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}
