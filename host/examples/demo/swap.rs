//! A build is replaced while a thread calls it without pause: its state goes on, no call fails.
//! Then a broken build comes, and the one before keeps serving.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use comfy_table::Table;
use hotbay::{Host, PluginHandle, Reloaded, Request};
use serde_json::json;

use crate::Outcome;
use crate::install::{configure, truncate};
use crate::show::table;

/// What the thread that calls has seen so far.
#[derive(Clone, Copy, Default)]
struct Seen {
    generation: u64,
    step: u64,
    total: u64,
    /// What the total has to be if no call was lost and none was counted twice.
    steps: u64,
    calls: u64,
    failed: u64,
}

impl Seen {
    /// Calls once more.
    fn and(mut self, counter: &PluginHandle) -> Self {
        self.calls += 1;
        let Ok(reply) = counter.call(Request::text("")) else {
            self.failed += 1;
            return self;
        };
        let before = std::mem::replace(&mut self.total, reply.json().unwrap_or_default());
        self.generation = reply.generation().get();
        self.step = self.total.saturating_sub(before);
        self.steps += if self.generation == 1 { 1 } else { 10 };
        self
    }
}

pub(crate) async fn swap(host: &Host, root: &Path) -> Outcome<()> {
    let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
    let caller = {
        let (counter, seen, stop) = (host.plugin("counter")?, Arc::clone(&seen), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let next = now(&seen).and(&counter);
                *seen.lock().unwrap_or_else(PoisonError::into_inner) = next;
            }
        })
    };
    let mut table = table(["", "generation", "step", "total", "steps", "calls", "failed"]);
    add_row(&mut table, "step 1", &seen);

    configure(root, "counter", json!({ "step": 10 }))?;
    let outcome = match host.reload("counter").await? {
        Reloaded::Promoted(generation) => format!("step 10: generation {generation} promoted"),
        other => format!("{other:?}"),
    };
    add_row(&mut table, &outcome, &seen);

    configure(root, "counter", json!({ "step": 100 }))?;
    truncate(root, "counter")?;
    let refused = host.reload("counter").await.err();
    add_row(&mut table, "broken build: rolled back", &seen);

    stop.store(true, Ordering::Relaxed);
    caller.join().map_err(|_| "the caller panicked")?;
    println!("{table}");
    if let Some(error) = refused {
        println!("\n{}", error.full_message().replace(&root.display().to_string(), "…"));
    }
    Ok(())
}

/// Where the caller is after some more calls.
fn add_row(table: &mut Table, what: &str, seen: &Mutex<Seen>) {
    let since = now(seen).calls;
    while now(seen).calls < since + 1000 {
        thread::yield_now();
    }
    let Seen { generation, step, total, steps, calls, failed } = now(seen);
    let numbers = [generation, step, total, steps, calls, failed].map(|number| number.to_string());
    table.add_row([what.to_owned()].into_iter().chain(numbers));
}

fn now(seen: &Mutex<Seen>) -> Seen {
    *seen.lock().unwrap_or_else(PoisonError::into_inner)
}
