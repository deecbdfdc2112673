//! Calls from one thread and from two at once, in short alternating windows.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hotbay::Request;

use crate::fixtures::{Echoes, Fixtures, title};
use crate::raw::RawPlugin;
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MIN_RATIO: f64 = 1.95;

struct Contender<'a> {
    name: String,
    goal: bool,
    work: Box<dyn Fn(u64) + Sync + 'a>,
}

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let raw = RawPlugin::load(&fixtures.raw)?;
    let echoes = Echoes::load(fixtures)?;
    let input = [b'x'; 16];
    let mut contenders = vec![Contender {
        name: "raw: trait object".to_owned(),
        goal: false,
        work: Box::new(|times| {
            for _ in 0..times {
                black_box(raw.object(black_box(&input)).as_slice());
            }
        }),
    }];
    for (what, handle) in &echoes.plugins {
        contenders.push(Contender {
            name: format!("call: {what}"),
            goal: true,
            work: Box::new(|times| {
                for _ in 0..times {
                    let reply = handle.call(Request::bytes(black_box(&input)));
                    black_box(reply.expect("the echo succeeds").as_bytes());
                }
            }),
        });
        let pin = handle.pin()?;
        contenders.push(Contender {
            name: format!("pin: {what}"),
            goal: true,
            work: Box::new(move |times| {
                for _ in 0..times {
                    let reply = pin.call(Request::bytes(black_box(&input)));
                    black_box(reply.expect("the echo succeeds").as_bytes());
                }
            }),
        });
    }
    let (windows, calls) = if quick { (5, 5_000) } else { (150, 60_000) };
    report.print(&table(&contenders, windows, calls));
    Ok(())
}

fn table(contenders: &[Contender<'_>], windows: usize, calls: u64) -> Table {
    let head =
        ["what", "1 thread, M/s", "2 threads, M/s", "ratio, best", "ratio, median", "goal", ""];
    let mut table =
        Table::new(title("Threads: 16 bytes, calls per second with one thread and with two"), head);
    let mut rates = vec![[vec![], vec![]]; contenders.len()];
    for _ in 0..windows {
        for (contender, rates) in contenders.iter().zip(&mut rates) {
            for (threads, rates) in (1..).zip(rates) {
                rates.push(rate(threads, calls, &contender.work));
            }
        }
    }
    for (contender, [one, two]) in contenders.iter().zip(rates) {
        let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        let (one_best, two_best) = (best(&one), best(&two));
        let ratio = two_best / one_best;
        let medians = quantile(two, 0.5) / quantile(one, 0.5);
        table.row([
            contender.name.clone(),
            format!("{:.1}", one_best * 1e3),
            format!("{:.1}", two_best * 1e3),
            format!("{ratio:.2}"),
            format!("{medians:.2}"),
            if contender.goal { format!("≥ {MIN_RATIO}") } else { none() },
            if contender.goal { verdict(ratio >= MIN_RATIO) } else { none() },
        ]);
    }
    table.note(
        "Goals refer to the best windows, since others were disturbed on one of the cores. The raw \
         trait object shows what the machine allows.",
    );
    table
}

/// Returns the calls per nanosecond of all threads, from their common start to the last end.
fn rate(threads: usize, calls: u64, work: &(dyn Fn(u64) + Sync)) -> f64 {
    let ready = AtomicUsize::new(0);
    let run = || {
        work(1000);
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < threads {
            spin_loop();
        }
        let start = Instant::now();
        work(calls);
        (start, Instant::now())
    };
    let spans: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let spans = threads.into_iter().map(|thread| thread.join());
        spans.map(|span| span.expect("no panic")).collect()
    });
    let start = spans.iter().map(|span| span.0).min();
    let end = spans.iter().map(|span| span.1).max();
    let took = start.zip(end).map(|(start, end)| end - start);
    let took = took.map_or(f64::NAN, |took| took.as_nanos() as f64);
    calls as f64 * threads as f64 / took
}
