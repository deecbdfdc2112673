//! Single calls on a kept connection.

use std::time::Instant;

use anyhow::ensure;
use tokio::runtime::{Builder, Runtime};

use super::bare::{Client, Server};
use super::setup::{BODY, Launched, Place, request};
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MAX_RATIO: f64 = 1.4;

/// One round: returns the nanoseconds of each call.
type Round<'a> = Box<dyn FnMut(usize) -> anyhow::Result<Vec<f64>> + 'a>;

pub(super) fn measure(place: &Place, quick: bool, report: &Report) -> anyhow::Result<()> {
    let (rounds, calls) = if quick { (2, 100) } else { (41, 2000) };
    let servers =
        [Server::start(place.dir.path(), "current")?, Server::start(place.dir.path(), "multi")?];
    let [current, multi] = &servers;
    let launched = Launched::start(&place.program, place.dir.path())?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let contenders: [(&str, Round<'_>); 5] = [
        ("bare client, bare server on current_thread", bare(current)?),
        ("bare client, bare server on multi_thread", bare(multi)?),
        ("bare client, SDK server", of_client(launched.connect()?)),
        ("`call`", Box::new(|calls| called(place, calls))),
        ("`execute`", Box::new(|calls| executed(&runtime, place, calls))),
    ];
    let (names, mut contenders): (Vec<_>, Vec<_>) = contenders.into_iter().unzip();
    let mut found = vec![Vec::new(); names.len()];
    for contender in &mut contenders {
        contender(calls)?;
    }
    for _ in 0..rounds {
        for (contender, found) in contenders.iter_mut().zip(&mut found) {
            let times = contender(calls)?;
            found.push([0.5, 0.9, 0.99].map(|part| quantile(times.clone(), part)));
        }
    }
    let title = format!("Processes: round trips of 16 bytes, {rounds} × {calls} calls (µs)");
    let head = [
        "what",
        "p50, best",
        "p50",
        "p90",
        "p99",
        "vs. current_thread",
        "vs. multi_thread",
        "goal",
        "",
    ];
    let mut table = Table::new(title, head);
    for (index, name) in names.into_iter().enumerate() {
        let all = |part: usize| found[index].iter().map(move |round| round[part]);
        let at = |part| format!("{:.1}", quantile(all(part).collect(), 0.5) / 1e3);
        let to = |other: usize| {
            let pairs = all(0).zip(&found[other]);
            quantile(pairs.map(|(own, other)| own / other[0]).collect(), 0.5)
        };
        let is_ours = name.starts_with('`');
        table.row([
            name.to_owned(),
            format!("{:.1}", all(0).fold(f64::INFINITY, f64::min) / 1e3),
            at(0),
            at(1),
            at(2),
            format!("{:.2}", to(0)),
            format!("{:.2}", to(1)),
            if is_ours { format!("≤ {MAX_RATIO} × current_thread") } else { none() },
            if is_ours { verdict(to(0) <= MAX_RATIO) } else { none() },
        ]);
    }
    table.note(
        "Each server is a separate process, and each client keeps one connection over a Unix \
         socket. The bare client and `execute` run on a current_thread runtime; `call` needs no \
         runtime. Each quantile is the median of that quantile over all rounds. The ratios are \
         medians of the p50 ratios of each round, and goals refer to them.",
    );
    report.print(&table);
    Ok(())
}

fn bare<'a>(server: &Server) -> anyhow::Result<Round<'a>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(Client::connect(&server.socket))?;
    Ok(of_client((runtime, client)))
}

fn of_client<'a>((runtime, mut client): (Runtime, Client)) -> Round<'a> {
    Box::new(move |calls| {
        runtime.block_on(async {
            let mut times = Vec::with_capacity(calls);
            for _ in 0..calls {
                let start = Instant::now();
                let answer = client.call(&BODY).await?;
                times.push(start.elapsed().as_nanos() as f64);
                ensure!(answer[..] == BODY, "unexpected reply");
            }
            Ok(times)
        })
    })
}

fn called(place: &Place, calls: usize) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        let answer = place.echo.call(request())?;
        times.push(start.elapsed().as_nanos() as f64);
        ensure!(answer.as_bytes() == BODY, "unexpected reply");
    }
    Ok(times)
}

fn executed(runtime: &Runtime, place: &Place, calls: usize) -> anyhow::Result<Vec<f64>> {
    runtime.block_on(async {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            let start = Instant::now();
            let answer = place.echo.execute(request()).await?;
            times.push(start.elapsed().as_nanos() as f64);
            ensure!(answer.as_bytes() == BODY, "unexpected reply");
        }
        Ok(times)
    })
}
