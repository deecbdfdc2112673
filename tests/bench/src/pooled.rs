//! Pooled calls from one and from many callers, beside tokio's blocking pool doing the same
//! work. For information: nothing is promised of them.

use std::sync::Arc;
use std::time::Instant;

use hotbay::{PluginHandle, Request};
use tokio::runtime::Runtime;

use crate::fixtures::{Echoes, Fixtures};
use crate::raw::RawPlugin;
use crate::sample::quantile;
use crate::table::{Paper, Table};

/// What a round of calls gave: calls a second, and the nanoseconds of each call.
struct Round {
    rate: f64,
    times: Vec<f64>,
}

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, paper: &Paper) -> anyhow::Result<()> {
    let raw = Arc::new(RawPlugin::load(&fixtures.raw)?);
    let echoes = Echoes::load(fixtures)?;
    let plugin = echoes.host.plugin("counted-heap")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let (rounds, calls) = if quick { (1, 200) } else { (9, 40_000) };
    let mut table = Table::new(
        "Pooled: 16 bytes, for information",
        ["what", "callers", "calls/s, best", "p50 µs", "p99 µs"],
    );
    for callers in [1, 64] {
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let calls = calls / callers;
            found[0].push(round(&runtime, callers, calls, || execute(plugin.clone())));
            found[1].push(round(&runtime, callers, calls, || blocking(Arc::clone(&raw))));
        }
        for (what, rounds) in ["execute", "tokio spawn_blocking"].into_iter().zip(found) {
            let rate = rounds.iter().map(|round| round.rate).fold(0.0, f64::max);
            // Of the round in the middle: the others were disturbed, or spared.
            let at = |part| {
                let rounds = rounds.iter();
                quantile(rounds.map(|round| quantile(round.times.clone(), part)).collect(), 0.5)
            };
            table.row([
                what.to_owned(),
                callers.to_string(),
                format!("{rate:.0}"),
                format!("{:.1}", at(0.5) / 1e3),
                format!("{:.1}", at(0.99) / 1e3),
            ]);
        }
    }
    table
        .note("`execute` copies, guards, counts and bounds; the other calls the raw trait object.");
    paper.print(&table);
    Ok(())
}

/// Lets so many callers make so many calls each, one after another.
fn round<C, F>(runtime: &Runtime, callers: usize, calls: usize, caller: impl Fn() -> C) -> Round
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let call = caller();
            runtime.spawn(async move {
                let mut times = Vec::with_capacity(calls);
                for _ in 0..calls {
                    let start = Instant::now();
                    call().await;
                    times.push(start.elapsed().as_nanos() as f64);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.append(&mut runtime.block_on(task).expect("no panic"));
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    Round { rate, times }
}

fn execute(
    plugin: PluginHandle,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    move || {
        let answer = plugin.execute(Request::bytes(&[b'x'; 16]));
        Box::pin(async {
            answer.await.expect("the plugin only echoes");
        })
    }
}

fn blocking(
    raw: Arc<RawPlugin>,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    move || {
        let raw = Arc::clone(&raw);
        let input = vec![b'x'; 16];
        Box::pin(async {
            let answer = tokio::task::spawn_blocking(move || raw.object(&input));
            answer.await.expect("no panic");
        })
    }
}
