//! The last lines of a program's output, and the first ones until it has started, for reports of
//! its exit.

use std::collections::VecDeque;
use std::fmt;

use hotbay_plugin::text::{Lines, escaped};

const MAX_LINES: usize = 20;
const MAX_FIRST_LINES: usize = 10;
const MAX_LINE_CHARS: usize = 400;
const MAX_BYTES: usize = 8 * 1024;

/// The last 20 lines of a program, and its first 10 until they are discarded, with long lines cut.
///
/// `Display` joins them with line ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    /// Total bytes of all lines and the line ends between them.
    bytes: usize,
    first: Vec<String>,
    /// Number of all lines ever added.
    count: usize,
    /// Whether the first lines were discarded.
    is_started: bool,
}

impl Tail {
    /// Adds a line and drops the oldest ones beyond the limits.
    ///
    /// Blank lines are skipped, and terminal control characters are escaped.
    pub(crate) fn push(&mut self, line: &str) {
        let line = shown(line.trim_end());
        if line.is_empty() {
            return;
        }
        if !self.is_started && self.first.len() < MAX_FIRST_LINES {
            self.first.push(line.clone());
        }
        self.count += 1;
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len() + 1;
        }
    }

    /// Returns the lines, oldest first.
    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.lines.iter().map(String::as_str)
    }

    /// Returns the first lines, oldest first; empty once they are discarded.
    pub(crate) fn first(&self) -> impl ExactSizeIterator<Item = &str> {
        self.first.iter().map(String::as_str)
    }

    /// Discards the first lines: the program has started, so they do not explain its exit.
    pub(crate) fn discard_first(&mut self) {
        self.first = Vec::new();
        self.is_started = true;
    }

    /// Returns the number of lines ever added, without blank ones.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns whether no line was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.lines().enumerate() {
            f.write_str(if at == 0 { "" } else { "\n" })?;
            f.write_str(line)?;
        }
        Ok(())
    }
}

/// Returns at most [`MAX_LINE_CHARS`] characters of `line`, with terminal control characters
/// escaped.
fn shown(line: &str) -> String {
    let line = escaped(line, Lines::Many);
    let mut left = line.chars();
    let mut shown: String = left.by_ref().take(MAX_LINE_CHARS).collect();
    if left.next().is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(lines: &[&str], expect: &str) {
        let mut tail = Tail::default();
        lines.iter().for_each(|line| tail.push(line));
        assert_eq!(tail.to_string(), expect);
    }

    #[test]
    fn lines_are_kept_in_order() {
        check(&[], "");
        check(&["a"], "a");
        check(&["a", "", "  ", "  b  ", "c"], "a\n  b\nc");
    }

    #[test]
    fn only_the_last_twenty_lines_are_kept() {
        let lines: Vec<String> = (0..50).map(|at| at.to_string()).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        check(&lines, &lines[30..].join("\n"));
    }

    #[test]
    fn long_line_is_cut() {
        check(&[&"é".repeat(400)], &"é".repeat(400));
        check(&[&"é".repeat(401)], &format!("{}…", "é".repeat(399)));
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        check(&["\u{1b}[31mred\u{7}\tx\0"], "\\u{1b}[31mred\\u{7}\tx\\u{0}");
        let mut tail = Tail::default();
        tail.push(&"\u{1b}".repeat(400));
        assert_eq!(tail.to_string().chars().count(), 400);
    }

    #[test]
    fn wide_characters_displace_older_lines() {
        let wide = "🦀".repeat(400);
        let lines = ["a", &wide, &wide, &wide, &wide, &wide];
        check(&lines, &lines.join("\n"));
        check(&[&lines[..], &[&wide]].concat(), &[&*wide; 5].join("\n"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn tail_never_exceeds_its_limits(lines in prop::collection::vec("[aé🦀\\x1b ]{0,500}", 0..40)) {
            let mut tail = Tail::default();
            for line in &lines {
                tail.push(line);
                let text = tail.to_string();
                prop_assert!(text.len() <= MAX_BYTES);
                prop_assert!(tail.lines().len() <= MAX_LINES);
                prop_assert!(text.lines().all(|line| line.chars().count() <= MAX_LINE_CHARS));
                prop_assert_eq!(tail.is_empty(), text.is_empty());
            }
        }
    }
}
