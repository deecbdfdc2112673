//! Many concurrent callers.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use tokio::runtime::{Builder, Runtime};

use super::bare::{Client, Server};
use super::setup::{BODY, Launched, Place, TOKEN, request};
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MIN_SERVER_RATE: f64 = 0.9;
const MIN_EXECUTE_RATE: f64 = 0.8;
const CALLERS: usize = 64;

/// Calls per second, and the nanoseconds of each.
struct Round {
    rate: f64,
    p50: f64,
    p99: f64,
}

pub(super) fn measure(place: &Place, quick: bool, report: &Report) -> anyhow::Result<()> {
    let (rounds, calls) = if quick { (2, 10) } else { (15, 400) };
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let current = Server::start(place.dir.path(), "current")?;
    let multi = Server::start(place.dir.path(), "multi")?;
    let launched = Launched::start(&place.program, place.dir.path())?;
    let mut found = [const { Vec::new() }; 4];
    let mut clients = [
        connect(&runtime, &current.socket, None)?,
        connect(&runtime, &multi.socket, None)?,
        connect(&runtime, &launched.socket, Some(TOKEN))?,
    ];
    for _ in 0..rounds {
        for (clients, found) in clients.iter_mut().zip(&mut found) {
            found.push(round(&runtime, std::mem::take(clients), calls, clients)?);
        }
        found[3].push(executed(&runtime, place, calls)?);
    }
    let title = format!("Processes: {CALLERS} concurrent callers, 16 bytes");
    let rate = "rate vs. current_thread";
    let head = ["what", "calls/s, best", "calls/s", "p50 µs", "p99 µs", rate, "goal", ""];
    let mut table = Table::new(title, head);
    let names = [
        ("bare, server on current_thread", None),
        ("bare, server on multi_thread", None),
        ("bare, SDK server", Some(MIN_SERVER_RATE)),
        ("`execute`", Some(MIN_EXECUTE_RATE)),
    ];
    for ((name, goal), rounds) in names.into_iter().zip(&found) {
        let at = |of: &dyn Fn(&Round) -> f64| quantile(rounds.iter().map(of).collect(), 0.5);
        let pairs = rounds.iter().zip(&found[0]);
        let ratio = quantile(pairs.map(|(own, bare)| own.rate / bare.rate).collect(), 0.5);
        table.row([
            name.to_owned(),
            format!("{:.0}", rounds.iter().map(|round| round.rate).fold(0.0, f64::max)),
            format!("{:.0}", at(&|round| round.rate)),
            format!("{:.0}", at(&|round| round.p50) / 1e3),
            format!("{:.0}", at(&|round| round.p99) / 1e3),
            format!("{ratio:.2}"),
            goal.map_or_else(none, |goal| format!("≥ {goal}")),
            goal.map_or_else(none, |goal| verdict(ratio >= goal)),
        ]);
    }
    table.note(
        "All callers are tasks of one multi_thread runtime, and each bare caller has its own \
         connection. The SDK server serves all of them on a few threads.",
    );
    report.print(&table);
    Ok(())
}

fn connect(runtime: &Runtime, socket: &Path, token: Option<&str>) -> anyhow::Result<Vec<Client>> {
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CALLERS {
            let client = Client::connect(socket).await?;
            clients.push(match token {
                Some(token) => client.with_token(token)?,
                None => client,
            });
        }
        Ok(clients)
    })
}

fn round(
    runtime: &Runtime,
    clients: Vec<Client>,
    calls: usize,
    back: &mut Vec<Client>,
) -> anyhow::Result<Round> {
    let start = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            runtime.spawn(async move {
                let mut times = Vec::with_capacity(calls);
                for _ in 0..calls {
                    let start = Instant::now();
                    ensure!(client.call(&BODY).await?[..] == BODY, "unexpected reply");
                    times.push(start.elapsed().as_nanos() as f64);
                }
                Ok((times, client))
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        let (own, client) = runtime.block_on(task)??;
        times.extend(own);
        back.push(client);
    }
    Ok(Round::of(times, start))
}

fn executed(runtime: &Runtime, place: &Place, calls: usize) -> anyhow::Result<Round> {
    let start = Instant::now();
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let echo = place.echo.clone();
            runtime.spawn(async move {
                let mut times = Vec::with_capacity(calls);
                for _ in 0..calls {
                    let start = Instant::now();
                    let answer = echo.execute(request()).await?;
                    times.push(start.elapsed().as_nanos() as f64);
                    ensure!(answer.as_bytes() == BODY, "unexpected reply");
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(runtime.block_on(task)??);
    }
    Ok(Round::of(times, start))
}

impl Round {
    fn of(times: Vec<f64>, start: Instant) -> Self {
        let rate = times.len() as f64 / start.elapsed().as_secs_f64();
        Self { rate, p50: quantile(times.clone(), 0.5), p99: quantile(times, 0.99) }
    }
}
