//! The main job, shown on a real file: discover, load, call, survive a panic, let go.
//!
//! `cargo xtask demo [FILE]` builds the plugins and runs this with their folder and the file.

#![allow(clippy::print_stdout, reason = "an example talks to people")]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use hotbay::{Host, HostEvent, PluginHandle, Reply, Request};
use serde_json::{Value, json};

/// Columns where there is no terminal to ask.
const WIDTH: u16 = 110;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [built, file] = arguments.as_slice() else {
        return Err("wanted: the folder of built plugins, and a text file".into());
    };
    let (built, file) = (Path::new(built), Path::new(file));

    // Several instances of one library, each with a config of its own.
    let folder = tempfile::tempdir()?;
    let instance =
        |name: &str, package: &str, config| install(folder.path(), built, name, package, config);
    instance("page", "transform", json!({ "mode": "markdown" }))?;
    instance("headings", "filter", json!({ "rule": "regex", "pattern": "^#+ " }))?;
    instance("anchor", "transform", json!({ "mode": "slug" }))?;
    instance("fragile", "fragile", json!({ "panics_on": "boom" }))?;
    instance("half-written", "transform", json!({ "mode": "upper" }))?;
    truncate(folder.path(), "half-written")?;

    let host = Host::builder().plugin_dir(folder.path()).build()?;
    let mut events = host.events();

    title("What was found, and what was loaded");
    let report = host.load_all().await;
    let mut table = table(["plugin", "version", "state", "why not"]);
    for plugin in host.list() {
        table.add_row([
            plugin.name.to_string(),
            plugin.version.to_string(),
            plugin.state,
            String::new(),
        ]);
    }
    for refused in &report.refused {
        let name = refused.name.as_ref().map_or("?".to_owned(), ToString::to_string);
        let why = refused.error.full_message().replace(&folder.path().display().to_string(), "…");
        table.add_row([name, String::new(), "refused".to_owned(), why]);
    }
    println!("{table}");

    title(&format!("{} through a chain of plugins", file.display()));
    let text = fs::read_to_string(file)?;
    chain(&host, &text).await?;

    title("A plugin panics, and everything goes on");
    survive(&host)?;

    title("What is left after the end");
    host.shutdown(Duration::from_secs(5)).await;
    while let Some(event) = events.try_next() {
        match event {
            HostEvent::Closed { plugin, leaked_bytes, .. } => {
                let leaked = leaked_bytes.map_or("unknown".to_owned(), |bytes| bytes.to_string());
                println!("{plugin}: library unmapped, bytes not released: {leaked}");
            }
            HostEvent::Kept { plugin, reason, .. } => println!("{plugin}: library kept, {reason}"),
            _ => {}
        }
    }
    Ok(())
}

/// The file as a page, and its headings as anchors.
async fn chain(host: &Host, text: &str) -> Outcome<()> {
    let mut table = table(["step", "plugin", "bytes in", "bytes out", "µs", "what came out"]);
    let mut step = |plugin: &PluginHandle, bytes: usize, since: Instant, reply: &Reply| {
        let text = reply.as_text().unwrap_or("(no text)").replace(['\n', '\r'], " ");
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

    // One call a heading, at raw speed on one generation.
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

fn survive(host: &Host) -> Outcome<()> {
    let fragile = host.plugin("fragile")?;
    let mut table = table(["call", "answer"]);
    for input in ["hello", "boom", "hello again"] {
        let answer = match fragile.call(Request::text(input)) {
            Ok(reply) => format!("{:?}", reply.as_text()?),
            Err(error) => error.full_message(),
        };
        table.add_row([format!("fragile({input:?})"), answer]);
    }
    let anchor = host.plugin("anchor")?.call(Request::text("Still here"))?;
    table.add_row(["anchor(\"Still here\")".to_owned(), format!("{:?}", anchor.as_text()?)]);
    println!("{table}\n");

    let mut table = self::table(["plugin", "state", "calls", "faults"]);
    for plugin in host.list() {
        table.add_row([
            plugin.name.to_string(),
            plugin.state,
            plugin.calls.to_string(),
            plugin.faults.to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Installs an instance: the built library under its manifest with another name and config.
fn install(root: &Path, built: &Path, name: &str, package: &str, config: Value) -> Outcome<()> {
    let from = built.join(package);
    let folder = root.join(name);
    fs::create_dir(&folder)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    let manifest = folder.join("plugin.json");
    let mut fields: Value = serde_json::from_str(&fs::read_to_string(&manifest)?)?;
    fields["name"] = name.into();
    fields["package"] = package.into();
    fields["config"] = config;
    fs::write(manifest, serde_json::to_string_pretty(&fields)?)?;
    Ok(())
}

/// Cuts the library of an instance in half, as a build that is being copied would be.
fn truncate(root: &Path, name: &str) -> Outcome<()> {
    let folder = root.join(name);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == std::env::consts::DLL_EXTENSION) {
            let length = fs::metadata(&path)?.len();
            fs::File::options().write(true).open(path)?.set_len(length / 2)?;
        }
    }
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}\n");
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !table.is_tty() {
        table.set_width(WIDTH);
    }
    table
}
