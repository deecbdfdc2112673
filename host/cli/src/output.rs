//! Writes to stdout and stderr. A closed reader is not an error, and nothing here panics.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use hotbay_plugin::text::{Lines, escaped, escaped_json};
use serde_json::Value;

use crate::failure::Failure;

/// Stdout. Drops what is written after its reader closed it.
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

    /// Returns whether the reader closed stdout.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(|sink| sink.write_all(bytes))
    }

    /// Writes a line, or several with those after the first indented. Escapes control characters.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        let text = indented(text);
        self.write(|sink| writeln!(sink, "{text}"))
    }

    /// Writes a line with one word in color, if colors are enabled.
    pub(crate) fn marked_line(
        &mut self,
        before: &str,
        (word, style): (&str, Style),
        after: &str,
    ) -> Result<(), Failure> {
        if !(self.is_terminal && colors_enabled()) {
            return self.line(&format!("{before}{word}{after}"));
        }
        let [before, word] = [before, word].map(|text| escaped(text, Lines::One));
        let after = indented(after);
        let code = style as u8;
        self.write(|sink| writeln!(sink, "{before}\x1b[{code}m{word}\x1b[0m{after}"))
    }

    /// Writes a JSON document with indentation.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = format!("{value:#}");
        self.write(|sink| writeln!(sink, "{}", escaped_json(&text)))
    }

    /// Writes a JSON document on one line.
    pub(crate) fn json_line(&mut self, value: &Value) -> Result<(), Failure> {
        let text = value.to_string();
        self.write(|sink| writeln!(sink, "{}", escaped_json(&text)))
    }

    /// Writes a table, as wide as the terminal if stdout is one.
    pub(crate) fn table(&mut self, header: &[&str], rows: Vec<Row>) -> Result<(), Failure> {
        let colors = self.is_terminal && colors_enabled();
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.is_terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        table.set_header(header.iter().map(|title| match colors {
            true => Cell::new(title).add_attribute(Attribute::Bold),
            false => Cell::new(title),
        }));
        for row in rows {
            let color = if row.is_error { Color::Red } else { Color::Green };
            table.add_row(row.cells.iter().enumerate().map(|(column, text)| {
                // The last column is text and may have several lines; the others are names.
                let is_last = column + 1 == row.cells.len();
                let lines = if is_last { Lines::Many } else { Lines::One };
                let cell = Cell::new(escaped(text, lines));
                match colors && column == row.state_column {
                    true => cell.fg(color),
                    false => cell,
                }
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text = table.trim_fmt();
        self.write(|sink| writeln!(sink, "{text}"))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.write(|sink| sink.flush())
    }

    fn write(
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

/// A row of a table.
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
    /// The column that is red if `is_error`, otherwise green.
    pub(crate) state_column: usize,
    pub(crate) is_error: bool,
}

/// The style of a word, as the number of its ANSI escape sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

/// Prints a message to stderr, if it is open. Indents the lines after the first, so that each
/// message starts at the margin.
pub(crate) fn print_message(text: &str) {
    let _ = writeln!(io::stderr(), "{}", indented(text));
}

/// Prints the hint of the message before it to stderr.
pub(crate) fn print_hint(text: &str) {
    print_message(&format!("  hint: {text}"));
}

fn indented(text: &str) -> String {
    escaped(text.trim_end_matches('\n'), Lines::Many).replace('\n', "\n    ")
}

/// Returns whether the environment allows colors.
pub(crate) fn colors_enabled() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
