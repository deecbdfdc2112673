//! Reloads a plugin while a thread calls it continuously: its state is handed over, and no call
//! fails. Then a broken build is rolled back.

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

/// The observations of the calling thread so far.
#[derive(Clone, Copy, Default)]
struct Observed {
    generation: u64,
    step: u64,
    total: u64,
    /// The expected total if each call was counted exactly once.
    steps: u64,
    calls: u64,
    failed: u64,
}

impl Observed {
    /// Calls the counter, and returns the updated observations.
    fn after_call(mut self, counter: &PluginHandle) -> Self {
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
    let (observed, stop) =
        (Arc::new(Mutex::new(Observed::default())), Arc::new(AtomicBool::new(false)));
    let caller = {
        let (counter, observed, stop) =
            (host.plugin("counter")?, Arc::clone(&observed), Arc::clone(&stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let next = snapshot(&observed).after_call(&counter);
                *observed.lock().unwrap_or_else(PoisonError::into_inner) = next;
            }
        })
    };
    let mut table = table(["after", "generation", "step", "total", "steps", "calls", "failed"]);
    add_row(&mut table, "step 1", &observed);

    configure(root, "counter", json!({ "step": 10 }))?;
    let outcome = match host.reload("counter").await? {
        Reloaded::Promoted(generation) => format!("step 10: generation {generation} promoted"),
        other => format!("{other:?}"),
    };
    add_row(&mut table, &outcome, &observed);

    configure(root, "counter", json!({ "step": 100 }))?;
    truncate(root, "counter")?;
    let refused = host.reload("counter").await.err();
    add_row(&mut table, "broken build: rolled back", &observed);

    stop.store(true, Ordering::Relaxed);
    caller.join().map_err(|_| "the caller panicked")?;
    println!("{table}");
    if let Some(error) = refused {
        println!("\n{}", error.full_message().replace(&root.display().to_string(), "…"));
    }
    Ok(())
}

/// Waits for further calls, then adds the observations to the table.
fn add_row(table: &mut Table, what: &str, observed: &Mutex<Observed>) {
    let start = snapshot(observed).calls;
    while snapshot(observed).calls < start + 1000 {
        thread::yield_now();
    }
    let Observed { generation, step, total, steps, calls, failed } = snapshot(observed);
    let numbers = [generation, step, total, steps, calls, failed].map(|number| number.to_string());
    table.add_row([what.to_owned()].into_iter().chain(numbers));
}

fn snapshot(observed: &Mutex<Observed>) -> Observed {
    *observed.lock().unwrap_or_else(PoisonError::into_inner)
}
