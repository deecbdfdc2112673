//! Stdout and stderr: who closes the other end ends the output quietly; nothing here panics.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use hotbay_plugin::text::{Lines, escaped, escaped_json};
use serde_json::Value;

use crate::failure::Failure;

/// Stdout. After its reader has gone, everything written is dropped.
pub(crate) struct Out {
    sink: BufWriter<StdoutLock<'static>>,
    is_closed: bool,
    is_terminal: bool,
}

impl Out {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        Self {
            is_terminal: stdout.is_terminal(),
            sink: BufWriter::new(stdout.lock()),
            is_closed: false,
        }
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.tried(|sink| sink.write_all(bytes))
    }

    /// One line, or as many as the text has, those after the first indented; characters that
    /// would steer a terminal are shown, not sent.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let text = indented(text);
        self.tried(|sink| writeln!(sink, "{text}"))
    }

    /// One line with a word in it that stands out where colours are shown.
    pub(crate) fn marked_line(
        &mut self,
        before: &str,
        (word, hue): (&str, Hue),
        after: &str,
    ) -> Result<(), Failure> {
        if !(self.is_terminal && wants_colours()) {
            return self.line(&format!("{before}{word}{after}"));
        }
        let [before, word] = [before, word].map(|text| escaped(text, Lines::One));
        let after = indented(after);
        let code = hue as u8;
        self.tried(|sink| writeln!(sink, "{before}\x1b[{code}m{word}\x1b[0m{after}"))
    }

    /// A document, laid out for people.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = format!("{value:#}");
        self.tried(|sink| writeln!(sink, "{}", escaped_json(&text)))
    }

    /// A document in one line.
    pub(crate) fn json_line(&mut self, value: &Value) -> Result<(), Failure> {
        let text = value.to_string();
        self.tried(|sink| writeln!(sink, "{}", escaped_json(&text)))
    }

    /// A table, as wide as the terminal; rows whose third flag is set have something wrong.
    pub(crate) fn table(&mut self, header: &[&str], rows: Vec<Row>) -> Result<(), Failure> {
        let colours = self.is_terminal && wants_colours();
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.is_terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        table.set_header(header.iter().map(|title| match colours {
            true => Cell::new(title).add_attribute(Attribute::Bold),
            false => Cell::new(title),
        }));
        for row in rows {
            let colour = if row.is_wrong { Color::Red } else { Color::Green };
            table.add_row(row.cells.iter().enumerate().map(|(column, text)| {
                // Only the last column may have several lines: what stands in others names things.
                let is_last = column + 1 == row.cells.len();
                let lines = if is_last { Lines::Many } else { Lines::One };
                let cell = Cell::new(escaped(text, lines));
                match colours && column == row.state {
                    true => cell.fg(colour),
                    false => cell,
                }
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.trim_fmt();
        self.tried(|sink| writeln!(sink, "{text}"))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.tried(|sink| sink.flush())
    }

    fn tried(
        &mut self,
        write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.is_closed {
            return Ok(());
        }
        match write(&mut self.sink) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => written.map_err(|error| Failure::io("cannot write to stdout", &error)),
        }
    }
}

/// One row of a table.
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
    /// The column that tells whether something is wrong.
    pub(crate) state: usize,
    pub(crate) is_wrong: bool,
}

/// How a word stands out, by the number that terminals know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hue {
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// Prints a message on stderr, if that is open. Further lines of it are indented, so that none of
/// them looks like a message of its own.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", indented(text));
}

fn indented(text: &str) -> String {
    escaped(text.trim_end_matches('\n'), Lines::Many).replace('\n', "\n    ")
}

/// Whether the user has nothing against colours where they can be shown.
pub(crate) fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
