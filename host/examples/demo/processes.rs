//! One plugin of each kind in one pipeline, and a process that is killed in the middle: calls wait
//! for the next one, or are told.

use std::path::Path;
use std::time::{Duration, Instant};

use hotbay::{Error, Host, HostEvent, Request};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::Outcome;
use crate::show::table;

/// Calls of the pipeline in all, and the one before which a process is killed.
const CALLS: u32 = 6;
const KILLED_BEFORE: u32 = 4;

/// Installs the processes, with the configs that the pipeline wants.
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
    let mut calls = table(["call", "µs", "what came out"]);
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
        let answer = match pipeline.run(request).await {
            Ok(reply) => reply.as_text()?.to_owned(),
            Err(error) => error.full_message(),
        };
        let micros = since.elapsed().as_micros();
        calls.add_row([call.to_string(), micros.to_string(), answer]);
    }
    println!("{calls}\n");
    told(&mut events, &shown)?;
    Ok(())
}

fn told(events: &mut hotbay::Events, shown: &dyn Fn(&str) -> String) -> Result<(), Error> {
    while let Some(event) = events.try_next() {
        match event {
            HostEvent::ChildExited { plugin, pid, reason, .. } => {
                println!("{plugin}: process {pid} ended: {reason}");
            }
            HostEvent::Restarted { plugin, pid, after, .. } => {
                println!("{plugin}: process {pid} serves, {} ms later", after.as_millis());
            }
            _ => {}
        }
    }
    println!("wordcount is process {} now", shown("wordcount"));
    Ok(())
}
