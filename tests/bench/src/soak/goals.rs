//! A table of results, and whether all its goals were met.

use crate::table::{Report, Table, none, verdict};

pub(super) struct Goals {
    table: Table,
    is_met: bool,
}

impl Goals {
    pub(super) fn new(title: String) -> Self {
        Self { table: Table::new(title, ["what", "found", "goal", ""]), is_met: true }
    }

    pub(super) fn found(&mut self, what: &str, found: impl ToString) {
        self.table.row([what.to_owned(), found.to_string(), none(), none()]);
    }

    /// Adds a goal; a missed one fails the soak.
    pub(super) fn goal(&mut self, what: &str, found: impl ToString, goal: &str, is_met: bool) {
        self.is_met &= is_met;
        self.hope(what, found, goal, is_met);
    }

    /// Adds a goal that is only reported, since it depends on other load on the machine.
    pub(super) fn hope(&mut self, what: &str, found: impl ToString, goal: &str, is_met: bool) {
        let found = found.to_string();
        self.table.row([what.to_owned(), found, goal.to_owned(), verdict(is_met)]);
    }

    pub(super) fn none_of(&mut self, what: &str, found: usize) {
        self.goal(what, found, "0", found == 0);
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.table.note(note);
    }

    /// Prints the table; returns whether all required goals were met.
    pub(super) fn print(self, report: &Report) -> bool {
        report.print(&self.table);
        self.is_met
    }
}
