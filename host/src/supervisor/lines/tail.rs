//! The last lines that a program wrote, and the first ones while it starts, for whoever has to
//! tell why it ended.

use std::collections::VecDeque;
use std::fmt;

use hotbay_plugin::text::{Lines, escaped};

const LINES_MAX: usize = 20;
const FIRST_LINES_MAX: usize = 10;
const LINE_CHARS_MAX: usize = 400;
const BYTES_MAX: usize = 8 * 1024;

/// The last 20 lines of a program, and its first 10 until they are forgotten, shortened to what a
/// person reads.
///
/// `Display` joins them with line ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    /// Of all lines and the line ends between them.
    bytes: usize,
    first: Vec<String>,
    /// Of all lines that were ever added.
    count: usize,
    /// The first lines do not matter any more.
    is_started: bool,
}

impl Tail {
    /// Adds a line and drops the oldest ones that there is no room for any more.
    ///
    /// Blank lines are left out, and what steers a terminal is escaped.
    pub(crate) fn push(&mut self, line: &str) {
        let line = shown(line.trim_end());
        if line.is_empty() {
            return;
        }
        if !self.is_started && self.first.len() < FIRST_LINES_MAX {
            self.first.push(line.clone());
        }
        self.count += 1;
        self.bytes += line.len() + 1;
        self.lines.push_back(line);
        while self.lines.len() > LINES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len() + 1;
        }
    }

    /// The lines, the oldest first.
    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.lines.iter().map(String::as_str)
    }

    /// The first lines, the oldest first; none once they are forgotten.
    pub(crate) fn first(&self) -> impl ExactSizeIterator<Item = &str> {
        self.first.iter().map(String::as_str)
    }

    /// Forgets the first lines: the program has started, and how it did does not tell why it ends.
    pub(crate) fn forget_first(&mut self) {
        self.first = Vec::new();
        self.is_started = true;
    }

    /// How many lines were written, blank ones apart.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether nothing was written.
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

/// At most [`LINE_CHARS_MAX`] characters of `line`, with what steers a terminal escaped.
fn shown(line: &str) -> String {
    let line = escaped(line, Lines::Many);
    let mut left = line.chars();
    let mut shown: String = left.by_ref().take(LINE_CHARS_MAX).collect();
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
    fn lines_are_kept_in_their_order() {
        check(&[], "");
        check(&["a"], "a");
        check(&["a", "", "  ", "  b  ", "c"], "a\n  b\nc");
    }

    #[test]
    fn only_the_last_twenty_lines_stay() {
        let lines: Vec<String> = (0..50).map(|at| at.to_string()).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        check(&lines, &lines[30..].join("\n"));
    }

    #[test]
    fn a_long_line_is_shortened() {
        check(&[&"é".repeat(400)], &"é".repeat(400));
        check(&[&"é".repeat(401)], &format!("{}…", "é".repeat(399)));
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        check(&["\u{1b}[31mred\u{7}\tx\0"], "\\u{1b}[31mred\\u{7}\tx\\u{0}");
        let mut tail = Tail::default();
        tail.push(&"\u{1b}".repeat(400));
        assert_eq!(tail.to_string().chars().count(), 400);
    }

    #[test]
    fn wide_characters_cost_older_lines() {
        let wide = "🦀".repeat(400);
        let lines = ["a", &wide, &wide, &wide, &wide, &wide];
        check(&lines, &lines.join("\n"));
        check(&[&lines[..], &[&wide]].concat(), &[&*wide; 5].join("\n"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_tail_never_grows_beyond_its_limits(lines in prop::collection::vec("[aé🦀\\x1b ]{0,500}", 0..40)) {
            let mut tail = Tail::default();
            for line in &lines {
                tail.push(line);
                let told = tail.to_string();
                prop_assert!(told.len() <= BYTES_MAX);
                prop_assert!(tail.lines().len() <= LINES_MAX);
                prop_assert!(told.lines().all(|line| line.chars().count() <= LINE_CHARS_MAX));
                prop_assert_eq!(tail.is_empty(), told.is_empty());
            }
        }
    }
}
