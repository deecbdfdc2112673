//! A million lines through a pipeline of three plugins, compared with the same calls in a loop on
//! two threads; memory must stay flat.

use std::hint::black_box;
use std::time::Instant;

use anyhow::ensure;
use futures_util::stream;
use hotbay::{Host, Pipeline, PluginHandle, Request, RunOptions};
use serde_json::json;

use crate::builds::{Builds, Kind};
use crate::fixtures::{self, block_on};
use crate::process::rss_bytes;
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const STEPS: [(&str, &str); 3] = [("first", "upper"), ("second", "title"), ("third", "lower")];
const MIN_RATIO: f64 = 0.8;
const MAX_GROWTH: f64 = (4 << 20) as f64;
/// Warm-up: number of lines after which memory is measured.
const WARM_LINES: u64 = 10_000;

pub(crate) fn measure(quick: bool, report: &Report) -> anyhow::Result<()> {
    let built = fixtures::library("transform")?;
    let dir = fixtures::folder()?;
    let host = Host::builder().build()?;
    let mut plugins = Vec::new();
    for (name, mode) in STEPS {
        let configs = [json!({ "mode": mode }), json!({ "mode": mode })];
        let kind = Kind { package: "transform", handover: "overlap", configs: &configs };
        let builds = Builds::new(dir.path(), name, &built, kind)?;
        plugins.push(block_on(host.load(&builds.folder))??);
    }
    let pipeline = host.pipeline(STEPS.map(|(name, _)| name))?;
    let (lines, rounds) = if quick { (20_000, 1) } else { (1_000_000, 3) };
    let mut grown = f64::NEG_INFINITY;
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        rates[0].push(in_loop(&plugins, lines));
        for (rates, many) in
            rates[1..].iter_mut().zip([RunOptions::ordered(), RunOptions::unordered()])
        {
            let (rate, growth) = streamed(&pipeline, many, lines)?;
            rates.push(rate);
            grown = grown.max(growth);
        }
    }
    report.print(&table(lines, &rates, grown));
    Ok(())
}

fn table(lines: u64, rates: &[Vec<f64>; 3], grown: f64) -> Table {
    let title = format!("Lines: {lines} lines of about 100 bytes through three plugins");
    let mut table = Table::new(title, ["what", "best", "median", "goal", ""]);
    let names = ["`call` in a loop on two threads", "run_many, ordered", "run_many, unordered"];
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    for (name, rates) in names.into_iter().zip(rates) {
        let rate = |rate: f64| format!("{:.0} lines/s", rate);
        let median = quantile(rates.clone(), 0.5);
        table.row([name.to_owned(), rate(best(rates)), rate(median), none(), none()]);
    }
    for (name, own) in names.into_iter().zip(rates).skip(1) {
        let ratio = best(own) / best(&rates[0]);
        let medians = quantile(own.clone(), 0.5) / quantile(rates[0].clone(), 0.5);
        table.row([
            format!("{name}, relative to the loop"),
            format!("{ratio:.2}"),
            format!("{medians:.2}"),
            format!("≥ {MIN_RATIO}"),
            verdict(ratio >= MIN_RATIO),
        ]);
    }
    table.row([
        format!("MiB growth after the first {WARM_LINES}"),
        format!("{:.2}", grown / f64::from(1 << 20)),
        none(),
        format!("≤ {:.0}", MAX_GROWTH / f64::from(1 << 20)),
        verdict(grown <= MAX_GROWTH),
    ]);
    table.note(
        "`transform` three times: upper case, title case, lower case. Lines are generated on \
         the fly.",
    );
    table
}

fn line(number: u64) -> String {
    format!(
        "{number:08} the quick brown fox jumps over the lazy dog, and then again over the very lazy dogs"
    )
}

/// Returns lines per second.
fn in_loop(plugins: &[PluginHandle], lines: u64) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn(move || {
                for number in (thread..lines).step_by(2) {
                    let mut request = Request::owned(line(number).into_bytes());
                    for plugin in plugins {
                        request = Request::from(
                            plugin.call(request).expect("the transformation succeeds"),
                        );
                    }
                    black_box(request.as_bytes());
                }
            });
        }
    });
    lines as f64 / start.elapsed().as_secs_f64()
}

/// Returns lines per second, and by how many bytes the process grew.
fn streamed(pipeline: &Pipeline, many: RunOptions, lines: u64) -> anyhow::Result<(f64, f64)> {
    let start = Instant::now();
    let requests = (0..lines).map(|number| Request::owned(line(number).into_bytes()));
    let mut outcomes = pipeline.run_many(stream::iter(requests), many);
    let (mut done, mut warm, mut most) = (0, 0, 0);
    block_on(async {
        while let Some(one) = outcomes.next().await {
            black_box(one.outcome?.as_bytes());
            done += 1;
            if done == WARM_LINES {
                warm = rss_bytes()?;
            }
            if done % (1 << 16) == 0 {
                most = most.max(rss_bytes()?);
            }
        }
        anyhow::Ok(())
    })??;
    ensure!(done == lines, "{done} of {lines} lines were returned");
    let rate = lines as f64 / start.elapsed().as_secs_f64();
    Ok((rate, most.max(rss_bytes()?) as f64 - warm as f64))
}
