//! Shows the main features on a file: discovery, loading, calls, a panic, a reload under load, a
//! killed process, and the shutdown.
//!
//! `cargo xtask demo [FILE]` builds the plugins and runs this example with their folder and the file.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod chain;
mod install;
#[cfg(unix)]
mod processes;
mod show;
mod survive;
mod swap;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hotbay::{Host, HostEvent, Output};
use serde_json::json;

use chain::chain;
use install::{install, truncate};
use show::{table, title};
use survive::survive;

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [built, file] = arguments.as_slice() else {
        return Err("expected arguments: the folder of built plugins, and a text file".into());
    };
    let (built, file) = (Path::new(built), Path::new(file));

    // Several instances of one library, each with its own config.
    let folder = tempfile::tempdir()?;
    let instance =
        |name: &str, package: &str, config| install(folder.path(), built, name, package, config);
    instance("page", "transform", json!({ "mode": "markdown" }))?;
    instance("headings", "filter", json!({ "rule": "regex", "pattern": "^#+ " }))?;
    instance("anchor", "transform", json!({ "mode": "slug" }))?;
    instance("fragile", "fragile", json!({ "panics_on": "boom" }))?;
    instance("counter", "counter", json!({ "step": 1 }))?;
    #[cfg(unix)]
    processes::install(folder.path(), built)?;
    instance("half-written", "transform", json!({ "mode": "upper" }))?;
    truncate(folder.path(), "half-written")?;

    let host = Host::builder()
        .plugin_dir(folder.path())
        .register_fn("list", |_, input| {
            let words: Vec<String> = input.json()?;
            Ok(Output::text(words.join(", ")))
        })
        .build()?;
    let mut events = host.events();

    title("Discovery and loading");
    let report = host.load_all().await;
    let mut table = table(["plugin", "version", "state", "purpose, or reason of the refusal"]);
    for plugin in host.list() {
        table.add_row([
            plugin.name.to_string(),
            plugin.version.to_string(),
            plugin.state.to_string(),
            purpose(plugin.name.as_str()).to_owned(),
        ]);
    }
    for refused in &report.refused {
        let name = refused.name.as_ref().map_or("?".to_owned(), ToString::to_string);
        let reason =
            refused.error.full_message().replace(&folder.path().display().to_string(), "…");
        table.add_row([name, String::new(), "refused".to_owned(), reason]);
    }
    println!("{table}");

    title(&format!("Several plugins process {}", file.display()));
    let text = fs::read_to_string(file)?;
    chain(&host, &text).await?;

    title("A plugin panics, and the others keep serving");
    survive(&host)?;

    title("A reload under load, then a broken build");
    swap::swap(&host, folder.path()).await?;

    #[cfg(unix)]
    {
        title("A pipeline of a library, two processes and a function; one process is killed");
        processes::survive_a_kill(&host, &text).await?;
    }

    title("Shutdown");
    host.shutdown(Duration::from_secs(5)).await;
    while let Some(event) = events.try_next() {
        match event {
            HostEvent::Closed { plugin, generation, leaked_bytes } => {
                let leaked = leaked_bytes.map(|bytes| format!(", bytes not released: {bytes}"));
                println!("{plugin} {generation}: closed{}", leaked.unwrap_or_default());
            }
            HostEvent::Kept { plugin, generation, reason } => {
                println!("{plugin} {generation}: library kept, {reason}");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Describes a plugin of the demo in one line.
fn purpose(name: &str) -> &'static str {
    match name {
        "page" => "`transform`: converts Markdown to HTML",
        "headings" => "`filter`: keeps the lines that are Markdown headings",
        "anchor" => "`transform`: makes a link anchor of a heading",
        "fragile" => "`fragile`: echoes, and panics on the word `boom`",
        "counter" => "`counter`: counts calls, and keeps its count across reloads",
        "upper" => "`transform`: converts text to capitals",
        "wordcount" => "`wordcount`, a Python process: counts words",
        "json-query" => "`json-query`, a Rust process: runs JSONPath queries",
        "list" => "a compiled-in function: joins a JSON array of strings",
        _ => "",
    }
}
