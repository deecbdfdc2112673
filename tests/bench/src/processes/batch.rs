//! Many requests in one round trip, compared with single calls in sequence.

use std::time::Instant;

use anyhow::ensure;
use futures_util::stream;
use hotbay::{Request, RunOptions};
use tokio::runtime::{Builder, Runtime};

use super::setup::{BODY, Place, request};
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MIN_TIMES: f64 = 10.0;
const CHUNK: usize = 100;

pub(super) fn measure(place: &Place, quick: bool, report: &Report) -> anyhow::Result<()> {
    let (rounds, calls) = if quick { (2, 1000) } else { (21, 10_000) };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let single = (calls / 10).max(1);
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        rates[0].push(called(place, single)?);
        rates[1].push(runtime.block_on(executed(place, single))?);
        rates[2].push(many(&runtime, place, calls, 1)?);
        rates[3].push(many(&runtime, place, calls, 8)?);
    }
    let title = format!("Processes: 16-byte requests with `run_many`, {CHUNK} per round trip");
    let head = ["what", "requests/s, best", "requests/s", "vs. `call`", "goal", ""];
    let mut table = Table::new(title, head);
    let names = [
        "`call`, sequential",
        "`execute`, sequential",
        "`run_many`, one chunk at a time",
        "`run_many`, up to 8 chunks at a time",
    ];
    for (index, name) in names.into_iter().enumerate() {
        let pairs = rates[index].iter().zip(&rates[0]);
        let times = quantile(pairs.map(|(own, single)| own / single).collect(), 0.5);
        let is_goal = index == 3;
        table.row([
            name.to_owned(),
            format!("{:.0}", rates[index].iter().copied().fold(0.0, f64::max)),
            format!("{:.0}", quantile(rates[index].clone(), 0.5)),
            format!("{times:.1}"),
            if is_goal { format!("≥ {MIN_TIMES}") } else { none() },
            if is_goal { verdict(times >= MIN_TIMES) } else { none() },
        ]);
    }
    table.note(
        "Ratios are medians of neighboring rounds. A batch is JSON with the bytes as base64; each \
         request in it is a separate call, with its own outcome and counts.",
    );
    report.print(&table);
    Ok(())
}

fn called(place: &Place, calls: usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        ensure!(place.echo.call(request())?.as_bytes() == BODY, "unexpected reply");
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64())
}

async fn executed(place: &Place, calls: usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        let answer = place.echo.execute(request()).await?;
        ensure!(answer.as_bytes() == BODY, "unexpected reply");
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64())
}

fn many(runtime: &Runtime, place: &Place, calls: usize, chunks: usize) -> anyhow::Result<f64> {
    let pipeline = place.host.pipeline(["echo"])?;
    let requests: Vec<_> = (0..calls).map(|_| Request::owned(BODY.to_vec())).collect();
    let how = RunOptions::ordered().with_max_chunk(CHUNK).with_max_chunks(chunks);
    runtime.block_on(async {
        let start = Instant::now();
        let mut outcomes = pipeline.run_many(stream::iter(requests), how);
        let mut count = 0;
        while let Some(done) = outcomes.next().await {
            ensure!(done.outcome?.as_bytes() == BODY, "unexpected reply");
            count += 1;
        }
        ensure!(count == calls, "{count} outcomes");
        Ok(calls as f64 / start.elapsed().as_secs_f64())
    })
}
