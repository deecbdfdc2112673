//! Values in SQLite through the plugin `storage`, compared with SQLite without a plugin: mixes of loads
//! and saves, from one thread and from four.

mod bare;

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use hotbay::Host;
use serde_json::json;
use storage_contract::KeyValue;

use crate::fixtures::{self, Library, title};
use crate::sample::quantile;
use crate::table::{Report, Table, verdict};
use bare::{BareStore, READERS, TIMEOUT};

/// The goal of the plugin, relative to no plugin.
const GOAL: f64 = 0.85;
/// Number of keys, which all have a value.
const KEYS: u64 = 1000;
const VALUE: [u8; 100] = [7; 100];

/// Each mix with the number of saves among ten calls.
const MIXES: [(&str, u64); 3] = [("loads", 0), ("9 loads, 1 save", 1), ("saves", 10)];

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let dir = fixtures::folder()?;
    let library = Library::copy("storage", &fixtures::library("storage")?, dir.path())?;
    let fields = json!({
        "handover": "pause",
        "config": {
            "file": dir.path().join("plugin.sqlite"),
            "readers": READERS,
            "timeout_ms": TIMEOUT,
            "synchronous": "normal",
        },
    });
    let folder = fixtures::install_with(&library, &dir.path().join("plugins"), "storage", fields)?;
    let host = Host::builder().build()?;
    fixtures::block_on(host.load(folder))??;
    let store = host.contract::<dyn KeyValue>("storage")?;
    let bare = BareStore::open(&dir.path().join("bare.sqlite"))?;
    for key in 0..KEYS {
        bare.save(&key.to_be_bytes(), &VALUE)?;
        store.save(&key.to_be_bytes(), &VALUE, None)?;
    }

    let bare_call = |key: &[u8], is_save: bool| match is_save {
        true => _ = black_box(bare.save(key, &VALUE).expect("it succeeds")),
        false => _ = black_box(bare.load(key).expect("it succeeds")),
    };
    let store_call = |key: &[u8], is_save: bool| match is_save {
        true => _ = black_box(store.save(key, &VALUE, None).expect("it succeeds")),
        false => _ = black_box(store.load(key).expect("it succeeds")),
    };
    let head = ["mix", "threads", "no plugin, calls/s", "plugin, calls/s", "ratio", "goal", ""];
    let mut table =
        Table::new(title("Storage: values of 100 bytes in SQLite, without `fsync`"), head);
    let (windows, calls) = if quick { (3, 200) } else { (61, 1000) };
    for (mix, saves) in MIXES {
        for threads in [1, 4] {
            let (mut bares, mut owns) = (Vec::new(), Vec::new());
            for _ in 0..windows {
                bares.push(rate(threads, calls, saves, &bare_call));
                owns.push(rate(threads, calls, saves, &store_call));
            }
            let ratios = owns.iter().zip(&bares).map(|(own, bare)| own / bare).collect();
            let ratio = quantile(ratios, 0.5);
            table.row([
                mix.to_owned(),
                threads.to_string(),
                format!("{:.0}", quantile(bares, 0.5)),
                format!("{:.0}", quantile(owns, 0.5)),
                format!("{ratio:.2}"),
                format!("≥ {GOAL}"),
                verdict(ratio >= GOAL),
            ]);
        }
    }
    table.note(
        "Both have the same statements, one connection that writes, and up to four that read.",
    );
    report.print(&table);
    Ok(())
}

/// Returns the calls per second of all threads, from their common start to the last end.
fn rate(threads: u64, calls: u64, saves: u64, call: &(dyn Fn(&[u8], bool) + Sync)) -> f64 {
    let ready = Barrier::new(threads as usize);
    let run = |thread: u64| {
        ready.wait();
        let start = Instant::now();
        for number in 0..calls {
            // Steps through all keys in an order without locality.
            let key = ((number + thread * calls) * 7919) % KEYS;
            call(&key.to_be_bytes(), number % 10 < saves);
        }
        (start, Instant::now())
    };
    let spans: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|number| {
                let run = &run;
                scope.spawn(move || run(number))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let start = spans.iter().map(|span| span.0).min();
    let end = spans.iter().map(|span| span.1).max();
    let took = start.zip(end).map(|(start, end)| end - start);
    (calls * threads) as f64 / took.map_or(f64::NAN, |took| took.as_secs_f64())
}
