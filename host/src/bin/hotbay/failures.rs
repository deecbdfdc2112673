//! Many lines that failed: the first are told one by one, of the others how many of which kind.
//! Makes texts only; keeps a bounded number of kinds.

use hotbay::Error;
use indicatif::HumanCount;

use crate::failure::Failure;

/// Failed lines that are told one by one.
const TOLD_MAX: u64 = 20;

/// Kinds of failures that are told apart after that.
const KINDS_MAX: usize = 8;

/// What failed so far.
#[derive(Default)]
pub(crate) struct Failures {
    pub(crate) count: u64,
    /// Those beyond the ones that were told, in the order of their first.
    more: Vec<Kind>,
}

struct Kind {
    name: String,
    count: u64,
    /// The number of the first line.
    first: u64,
}

impl Failures {
    /// Takes note of a failed line; answers with what is to be told of it now.
    pub(crate) fn note(&mut self, number: u64, failure: &Failure) -> Vec<String> {
        self.count += 1;
        if self.count <= TOLD_MAX {
            return of_line(number, failure);
        }
        let name = match self.more.len() {
            KINDS_MAX.. if !self.more.iter().any(|kind| kind.name == name_of(failure)) => {
                "other errors".to_owned()
            }
            _ => name_of(failure),
        };
        match self.more.iter_mut().find(|kind| kind.name == name) {
            Some(kind) => kind.count += 1,
            None => self.more.push(Kind { name, count: 1, first: number }),
        }
        Vec::new()
    }

    /// What is to be told at the end of those that were not told.
    pub(crate) fn rest(&self) -> Option<String> {
        let more = self.count.checked_sub(TOLD_MAX).filter(|more| *more > 0)?;
        let lines = if more == 1 { "line" } else { "lines" };
        let kinds: Vec<_> = self.more.iter().map(Kind::told).collect();
        Some(format!("error: {} more {lines} failed: {}", HumanCount(more), kinds.join("; ")))
    }
}

impl Kind {
    fn told(&self) -> String {
        format!("{} with {}, first line {}", HumanCount(self.count), self.name, self.first)
    }
}

/// One line for one line, and the details of a plugin's own error.
fn of_line(number: u64, failure: &Failure) -> Vec<String> {
    let mut lines = vec![format!("error: line {number}: {}", failure.full_message())];
    if let Failure::Host(error) = failure
        && let Some(details) = error.plugin_error().and_then(|error| error.details())
    {
        lines.push(format!("  details: {details}"));
    }
    lines
}

fn name_of(failure: &Failure) -> String {
    match failure {
        Failure::Host(error) | Failure::Titled { error, .. } => {
            let plugin = error.plugin().map(|name| format!(" of plugin `{name}`"));
            format!("{}{}", what(error), plugin.unwrap_or_default())
        }
        Failure::Usage(_) => "kind usage".to_owned(),
        Failure::Own { kind, .. } => format!("kind {kind}"),
    }
}

fn what(error: &Error) -> String {
    match error.plugin_error() {
        Some(own) => format!("code {}", own.code()),
        None => format!("kind {}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_told_and_the_others_counted_by_kind() {
        let mut failures = Failures::default();
        let (long, late) = (Failure::new("input", "too long"), Failure::new("late", "too late"));
        for number in 1..=20 {
            let told = failures.note(number, &long);
            assert_eq!(told, [format!("error: line {number}: too long")]);
        }
        assert_eq!(failures.rest(), None);
        assert!(failures.note(21, &late).is_empty());
        let rest = failures.rest().unwrap();
        assert_eq!(rest, "error: 1 more line failed: 1 with kind late, first line 21");
        for number in 22..1300 {
            assert!(failures.note(number, &long).is_empty());
        }
        let rest = failures.rest().unwrap();
        let wanted = "error: 1,279 more lines failed: 1 with kind late, first line 21; \
                      1,278 with kind input, first line 22";
        assert_eq!(rest, wanted);
    }

    #[test]
    fn many_kinds_are_told_together() {
        const KINDS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let mut failures = Failures::default();
        for number in 1..=20 {
            failures.note(number, &Failure::new("a", ""));
        }
        for (number, kind) in (21..).zip(KINDS) {
            failures.note(number, &Failure::new(kind, ""));
        }
        let rest = failures.rest().unwrap();
        assert!(rest.starts_with("error: 12 more lines failed: 1 with kind a, first line 21;"));
        assert!(rest.ends_with("; 4 with other errors, first line 29"), "{rest}");
    }
}
