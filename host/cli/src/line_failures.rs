//! Formats the failures of many lines: prints the first ones, and counts the others by kind. Keeps
//! a bounded number of kinds.

use std::fmt;

use hotbay::Error;
use indicatif::HumanCount;

use crate::failure::Failure;

/// Maximum number of failed lines that are printed.
const MAX_PRINTED: u64 = 20;

/// Maximum number of kinds that are counted separately.
const MAX_KINDS: usize = 8;

/// The failed lines so far.
#[derive(Default)]
pub(crate) struct LineFailures {
    pub(crate) count: u64,
    /// The failures that were not printed, in the order of their first line.
    counted: Vec<KindCount>,
}

struct KindCount {
    name: String,
    count: u64,
    /// The number of the first line.
    first: u64,
}

impl LineFailures {
    /// Records a failed line, and returns what to print for it.
    pub(crate) fn record(&mut self, number: u64, failure: &Failure) -> Vec<String> {
        self.count += 1;
        if self.count <= MAX_PRINTED {
            return line_messages(number, failure);
        }
        let name = match self.counted.len() {
            MAX_KINDS.. if !self.counted.iter().any(|kind| kind.name == kind_name(failure)) => {
                "other errors".to_owned()
            }
            _ => kind_name(failure),
        };
        match self.counted.iter_mut().find(|kind| kind.name == name) {
            Some(kind) => kind.count += 1,
            None => self.counted.push(KindCount { name, count: 1, first: number }),
        }
        Vec::new()
    }

    /// Returns a summary of the failures that were not printed.
    pub(crate) fn summary(&self) -> Option<String> {
        let more = self.count.checked_sub(MAX_PRINTED).filter(|more| *more > 0)?;
        let lines = if more == 1 { "line" } else { "lines" };
        let kinds: Vec<_> = self.counted.iter().map(ToString::to_string).collect();
        Some(format!("error: {} more {lines} failed: {}", HumanCount(more), kinds.join("; ")))
    }
}

impl fmt::Display for KindCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}, first line {}", HumanCount(self.count), self.name, self.first)
    }
}

/// Returns the message of a failed line, and the details of a plugin's own error.
fn line_messages(number: u64, failure: &Failure) -> Vec<String> {
    let mut lines = vec![format!("error: line {number}: {}", failure.full_message())];
    if let Failure::Host(error) = failure
        && let Some(details) = error.plugin_error().and_then(|error| error.details())
    {
        lines.push(format!("  details: {details}"));
    }
    lines
}

fn kind_name(failure: &Failure) -> String {
    match failure {
        Failure::Host(error) | Failure::Titled { error, .. } => {
            let plugin = error.plugin().map(|name| format!(" of plugin `{name}`"));
            format!("{}{}", code_or_kind(error), plugin.unwrap_or_default())
        }
        Failure::Usage(_) => "kind usage".to_owned(),
        Failure::Own { kind, .. } => format!("kind {kind}"),
    }
}

fn code_or_kind(error: &Error) -> String {
    match error.plugin_error() {
        Some(own) => format!("code {}", own.code()),
        None => format!("kind {}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_failures_are_printed_and_others_counted() {
        let mut failures = LineFailures::default();
        let (long, slow) = (Failure::new("input", "too long"), Failure::new("slow", "too slow"));
        for number in 1..=20 {
            let lines = failures.record(number, &long);
            assert_eq!(lines, [format!("error: line {number}: too long")]);
        }
        assert_eq!(failures.summary(), None);
        assert!(failures.record(21, &slow).is_empty());
        let summary = failures.summary().unwrap();
        assert_eq!(summary, "error: 1 more line failed: 1 with kind slow, first line 21");
        for number in 22..1300 {
            assert!(failures.record(number, &long).is_empty());
        }
        let summary = failures.summary().unwrap();
        let expected = "error: 1,279 more lines failed: 1 with kind slow, first line 21; \
                      1,278 with kind input, first line 22";
        assert_eq!(summary, expected);
    }

    #[test]
    fn many_kinds_are_counted_together() {
        const KINDS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let mut failures = LineFailures::default();
        for number in 1..=20 {
            failures.record(number, &Failure::new("a", ""));
        }
        for (number, kind) in (21..).zip(KINDS) {
            failures.record(number, &Failure::new(kind, ""));
        }
        let summary = failures.summary().unwrap();
        assert!(summary.starts_with("error: 12 more lines failed: 1 with kind a, first line 21;"));
        assert!(summary.ends_with("; 4 with other errors, first line 29"), "{summary}");
    }
}
