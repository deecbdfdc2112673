//! Prints titles and tables.

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

/// The width of tables, in columns, if stdout is not a terminal.
const WIDTH: u16 = 110;

pub(crate) fn title(text: &str) {
    println!("\n== {text}\n");
}

pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !table.is_tty() {
        table.set_width(WIDTH);
    }
    table
}
