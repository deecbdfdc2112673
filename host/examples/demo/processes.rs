//! A pipeline with one plugin of each kind, and a process that is killed between two calls. Calls
//! wait for its restart, or return an error.

use std::path::Path;
use std::time::{Duration, Instant};

use hotbay::{Error, Host, HostEvent, Request};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::Outcome;
use crate::show::table;

/// The number of calls.
const CALLS: u32 = 6;
/// A process is killed before this call.
const KILLED_BEFORE: u32 = 4;

/// Installs the plugins of the pipeline.
pub(crate) fn install(root: &Path, built: &Path) -> Outcome<()> {
    let instance = |name, config| crate::install::install(root, built, name, name, config);
    crate::install::install(root, built, "upper", "transform", json!({ "mode": "upper" }))?;
    instance("wordcount", json!({ "top": 5, "min_length": 4 }))?;
    instance("json-query", json!({ "query": "$.frequent[*].word" }))
}

pub(crate) async fn survive_a_kill(host: &Host, text: &str) -> Outcome<()> {
    let mut kinds = table(["step", "kind", "process"]);
    let process = |name: &str| host.list().into_iter().find(|one| one.name.as_str() == name)?.pid;
    let shown = |name: &str| process(name).map_or("-".to_owned(), |pid| pid.to_string());
    for (name, kind) in [
        ("upper", "a library"),
        ("wordcount", "a process, in Python"),
        ("json-query", "a process, in Rust"),
        ("list", "a function of this program"),
    ] {
        kinds.add_row([name.to_owned(), kind.to_owned(), shown(name)]);
    }
    println!("{kinds}\n");

    let pipeline = host.pipeline(["upper", "wordcount", "json-query", "list"])?;
    let mut events = host.events();
    let mut calls = table(["call", "µs", "output"]);
    let lines: Vec<_> = text.lines().filter(|line| line.split(' ').count() > 3).collect();
    for (call, line) in (1..=CALLS).zip(lines.iter().cycle()) {
        if call == KILLED_BEFORE
            && let Some(pid) = process("wordcount").and_then(|pid| Pid::from_raw(pid as i32))
        {
            kill_process(pid, Signal::KILL)?;
            calls.add_row(["", "", "SIGKILL to the process of wordcount"]);
        }
        let since = Instant::now();
        let request =
            Request::text(line).with_idempotent(true).with_timeout(Duration::from_secs(10));
        let output = match pipeline.run(request).await {
            Ok(reply) => reply.as_text()?.to_owned(),
            Err(error) => error.full_message(),
        };
        let micros = since.elapsed().as_micros();
        calls.add_row([call.to_string(), micros.to_string(), output]);
    }
    println!("{calls}\n");
    print_events(&mut events, &shown)?;
    Ok(())
}

fn print_events(events: &mut hotbay::Events, shown: &dyn Fn(&str) -> String) -> Result<(), Error> {
    while let Some(event) = events.try_next() {
        match event {
            HostEvent::ChildExited { plugin, pid, reason, .. } => {
                println!("{plugin}: process {pid} exited: {reason}");
            }
            HostEvent::Restarted { plugin, pid, after, .. } => {
                println!("{plugin}: process {pid} serves after {} ms", after.as_millis());
            }
            _ => {}
        }
    }
    println!("wordcount: process {} serves now", shown("wordcount"));
    Ok(())
}
