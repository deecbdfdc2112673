//! Tables of results, as aligned text or as Markdown.

/// Prints tables.
#[derive(Debug)]
pub(crate) struct Report {
    markdown: bool,
}

/// A title, a header and rows.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn new<const N: usize>(title: impl Into<String>, head: [&str; N]) -> Self {
        Self {
            title: title.into(),
            rows: vec![head.map(str::to_owned).to_vec()],
            notes: Vec::new(),
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl Report {
    pub(crate) fn new(markdown: bool) -> Self {
        Self { markdown }
    }

    pub(crate) fn print(&self, table: &Table) {
        let columns = table.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = table.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>()
        };
        println!("{}{}\n", if self.markdown { "### " } else { "" }, table.title);
        for (index, row) in table.rows.iter().enumerate() {
            let cells = line(row);
            if !self.markdown {
                println!("  {}", cells.join("   ").trim_end());
                continue;
            }
            println!("| {} |", cells.join(" | "));
            if index == 0 {
                let rules = widths.iter().enumerate().map(|(column, width)| match column {
                    0 => "-".repeat(width + 2),
                    _ => format!("{}:", "-".repeat(width + 1)),
                });
                println!("|{}|", rules.collect::<Vec<_>>().join("|"));
            }
        }
        println!();
        for note in &table.notes {
            println!("{}{note}\n", if self.markdown { "" } else { "  " });
        }
    }
}

/// Returns the text for a met or missed goal.
pub(crate) fn verdict(met: bool) -> String {
    if met { "met" } else { "missed" }.to_owned()
}

/// Returns the text for a row without a goal.
pub(crate) fn none() -> String {
    "–".to_owned()
}

/// Formats nanoseconds with one decimal.
pub(crate) fn ns(ns: f64) -> String {
    format!("{ns:.1}")
}

/// Formats nanoseconds as microseconds.
pub(crate) fn us(ns: f64) -> String {
    format!("{:.0}", ns / 1e3)
}
