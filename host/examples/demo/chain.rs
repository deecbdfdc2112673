//! Sends a file through several plugins, and measures each step.

use std::time::Instant;

use hotbay::{Host, PluginHandle, Reply, Request};

use crate::Outcome;
use crate::show::table;

/// Converts the file to HTML, and its headings to link anchors.
pub(crate) async fn chain(host: &Host, text: &str) -> Outcome<()> {
    let mut table = table(["step", "plugin", "bytes in", "bytes out", "µs", "output"]);
    let mut step = |plugin: &PluginHandle, bytes: usize, since: Instant, reply: &Reply| {
        let text = reply.as_text().unwrap_or("(not text)").replace(['\n', '\r'], " ");
        let shown: String = text.chars().take(44).collect();
        let micros = since.elapsed().as_micros();
        let row = [
            plugin.name().to_string(),
            bytes.to_string(),
            reply.as_bytes().len().to_string(),
            micros.to_string(),
            shown,
        ];
        let number = (table.row_count() + 1).to_string();
        table.add_row([number].into_iter().chain(row));
    };

    let page = host.plugin("page")?;
    let since = Instant::now();
    let html = page.execute(Request::text(text)).await?;
    step(&page, text.len(), since, &html);

    let headings = host.plugin("headings")?;
    let lines = serde_json::to_string(&text.lines().collect::<Vec<_>>())?;
    let since = Instant::now();
    let found = headings.execute(Request::json_text(&lines)).await?;
    step(&headings, lines.len(), since, &found);

    // One call per heading, on a pinned generation.
    let anchor = host.plugin("anchor")?;
    let pinned = anchor.pin()?;
    for heading in found.json::<Vec<String>>()?.iter().take(5) {
        let since = Instant::now();
        let slug = pinned.call(Request::text(heading.trim_start_matches('#').trim()))?;
        step(&anchor, heading.len(), since, &slug);
    }
    println!("{table}");
    Ok(())
}
