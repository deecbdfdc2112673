//! Typed calls of a contract, compared with a C function, with abi_stable, stabby and savefile-abi,
//! with postcard in one program, and with a bare channel.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_contract::{Bench, Record};
use futures_util::future::join_all;
use hotbay::Host;
use tokio::sync::{mpsc, oneshot};

use crate::fixtures::{self, Fixtures, Library, title};
use crate::peers::Peers;
use crate::raw::RawPlugin;
use crate::sample::{Contender, Samples, interleaved, quantile};
use crate::table::{Report, Table, none, ns, verdict};

/// The goals of `score`, in nanoseconds above the C function.
const GOALS: [(&str, f64); 4] = [
    ("handle: independent", 4.5),
    ("handle: dependent", 2.5),
    ("pin: independent", 2.5),
    ("pin: dependent", 1.6),
];
/// The goal of a record, relative to postcard in one program and a call.
const RECORD_GOAL: f64 = 1.3;
/// The goal of an async method with 64 callers, relative to a channel and oneshot.
const ASYNC_GOAL: f64 = 1.3;
const CALLERS: usize = 64;

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let raw = Arc::new(RawPlugin::load(&fixtures.raw)?);
    let peers = Peers::load(&fixtures::library("bench-peers")?)?;
    let dir = fixtures::folder()?;
    let built = fixtures::library("bench-typed")?;
    let library = Library::copy("bench-typed", &built, dir.path())?;
    let plugins = dir.path().join("plugins");
    let folder = fixtures::install(&library, &plugins, "typed", "heap")?;
    let host = Host::builder().build()?;
    fixtures::block_on(host.load(folder))??;
    let bench = host.contract::<dyn Bench>("typed")?;
    let pin = bench.pin()?;

    let (rounds, sample) = if quick { (20, 20) } else { (4000, 50) };
    let sample = Duration::from_micros(sample);
    for kind in ["independent", "dependent"] {
        let is_dependent = kind == "dependent";
        let mut contenders = vec![
            score("C function".to_owned(), is_dependent, |a, b| raw.c_score(a, b)),
            score("abi_stable: trait object".to_owned(), is_dependent, |a, b| {
                raw.object_score(a, b)
            }),
            score("stabby: trait object".to_owned(), is_dependent, |a, b| peers.stabby_score(a, b)),
            score("savefile-abi".to_owned(), is_dependent, |a, b| peers.savefile_score(a, b)),
            score(format!("handle: {kind}"), is_dependent, |a, b| {
                bench.score(a, b).expect("it succeeds")
            }),
            score(format!("pin: {kind}"), is_dependent, |a, b| {
                pin.score(a, b).expect("it succeeds")
            }),
        ];
        let samples = interleaved(&mut contenders, rounds, sample);
        let what = format!("Typed calls: `score(f64, f64)`, {kind} (ns per call)");
        report.print(&above_table(&what, &samples));
    }

    let text = "x".repeat(1024);
    let mut contenders = vec![
        length("C function".to_owned(), &text, |text| raw.c_length(text)),
        length("stabby: trait object".to_owned(), &text, |text| peers.stabby_length(text)),
        length("savefile-abi".to_owned(), &text, |text| peers.savefile_length(text)),
        length("handle".to_owned(), &text, |text| bench.length(text).expect("it succeeds")),
        length("pin".to_owned(), &text, |text| pin.length(text).expect("it succeeds")),
    ];
    let samples = interleaved(&mut contenders, rounds, sample);
    report.print(&above_table("Typed calls: `length(&str)`, 1 KiB (ns per call)", &samples));
    report.print(&records(&raw, &bench, rounds / 4, sample));
    report.print(&tasks(&bench, quick)?);
    Ok(())
}

fn above_table(what: &str, samples: &[Samples]) -> Table {
    let head = ["what", "min", "median", "over C, min", "over C, median", "goal", ""];
    let mut table = Table::new(title(what), head);
    let c = &samples[0];
    for one in samples {
        let goal = GOALS.iter().find(|(name, _)| *name == one.name).map(|(_, goal)| *goal);
        table.row([
            one.name.clone(),
            ns(one.min()),
            ns(one.median()),
            format!("{:+.1}", one.min() - c.min()),
            format!("{:+.1}", one.above(c)),
            goal.map_or_else(none, |goal| format!("≤ +{goal}")),
            goal.map_or_else(none, |goal| verdict(one.above(c) <= goal)),
        ]);
    }
    table.note("`over C, median` is the median of the differences of neighboring samples.");
    table
}

/// Calls with independent arguments, or with the result of the call before.
fn score<'a>(
    name: String,
    is_dependent: bool,
    call: impl Fn(f64, f64) -> f64 + 'a,
) -> Contender<'a> {
    let work: Box<dyn FnMut(u64)> = match is_dependent {
        true => Box::new(move |times| {
            let mut sum = 0.0;
            for _ in 0..times {
                sum = call(sum, black_box(1.0));
            }
            black_box(sum);
        }),
        false => Box::new(move |times| {
            for _ in 0..times {
                black_box(call(black_box(1.0), black_box(2.0)));
            }
        }),
    };
    Contender { name, work }
}

fn length<'a>(name: String, text: &'a str, call: impl Fn(&str) -> u64 + 'a) -> Contender<'a> {
    let work = move |times| {
        for _ in 0..times {
            black_box(call(black_box(text)));
        }
    };
    Contender { name, work: Box::new(work) }
}

fn records(raw: &RawPlugin, bench: &impl Bench, rounds: usize, sample: Duration) -> Table {
    let record = Record::example();
    let through_postcard = |record: &Record| -> Record {
        let bytes = postcard::to_allocvec(record).expect("a record serializes");
        postcard::from_bytes(&bytes).expect("a record deserializes")
    };
    let mut contenders = vec![
        Contender {
            name: "postcard in one program, and a C function".to_owned(),
            work: Box::new(|times| {
                for _ in 0..times {
                    let argument = through_postcard(black_box(&record.clone()));
                    black_box(raw.c_score(1.0, 2.0));
                    black_box(through_postcard(&argument));
                }
            }),
        },
        Contender {
            name: "handle".to_owned(),
            work: Box::new(|times| {
                for _ in 0..times {
                    black_box(bench.record(black_box(record.clone())).expect("it succeeds"));
                }
            }),
        },
    ];
    let samples = interleaved(&mut contenders, rounds, sample);
    let head = ["what", "min", "median", "ratio", "goal", ""];
    let mut table = Table::new(title("Typed calls: a record of ten fields (ns per call)"), head);
    let [bare, own] = &samples[..] else { return table };
    let ratio = own.median() / bare.median();
    for (one, is_own) in [(bare, false), (own, true)] {
        table.row([
            one.name.clone(),
            ns(one.min()),
            ns(one.median()),
            if is_own { format!("{ratio:.2}") } else { none() },
            if is_own { format!("≤ {RECORD_GOAL}") } else { none() },
            if is_own { verdict(ratio <= RECORD_GOAL) } else { none() },
        ]);
    }
    table.note("Both serialize and deserialize the record twice: as argument and as result.");
    table
}

/// A task that adds numbers it receives.
struct Bare(mpsc::Sender<(u64, u64, oneshot::Sender<u64>)>);

impl Bare {
    fn start(runtime: &tokio::runtime::Runtime) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(u64, u64, oneshot::Sender<u64>)>(1024);
        runtime.spawn(async move {
            while let Some((a, b, reply)) = receiver.recv().await {
                // The caller waits for it.
                let _ = reply.send(a + b);
            }
        });
        Self(sender)
    }

    async fn add(&self, a: u64, b: u64) -> u64 {
        let (sender, receiver) = oneshot::channel();
        self.0.send((a, b, sender)).await.expect("the task lives");
        receiver.await.expect("the task replies")
    }
}

fn tasks(bench: &impl Bench, quick: bool) -> anyhow::Result<Table> {
    // Two runtimes, as with a plugin: callers on one, the work on another.
    let work = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let callers = tokio::runtime::Builder::new_current_thread().build()?;
    let bare = Bare::start(&work);
    let (rounds, calls) = if quick { (1, 20) } else { (31, 500) };
    let spawn = async |a, b| {
        let (sender, receiver) = oneshot::channel();
        work.spawn(async move { sender.send(a + b) });
        receiver.await.expect("the task replies")
    };
    let (mut bares, mut spawns, mut owns) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bares.push(round(&callers, calls, async |a, b| bare.add(a, b).await));
        spawns.push(round(&callers, calls, spawn));
        owns.push(round(&callers, calls, async |a, b| bench.add(a, b).await.expect("it succeeds")));
    }
    let ratio =
        |of: &[f64]| quantile(of.iter().zip(&bares).map(|(one, bare)| one / bare).collect(), 0.5);
    let (spawn_ratio, own_ratio) = (ratio(&spawns), ratio(&owns));
    let head = ["what", "calls/s, median", "cost, ratio", "goal", ""];
    let mut table = Table::new(title("Typed calls: an async method, 64 callers"), head);
    let rate = |nanoseconds: Vec<f64>| format!("{:.0}", 1e9 / quantile(nanoseconds, 0.5));
    table.row(["channel and oneshot".to_owned(), rate(bares), none(), none(), none()]);
    let spawned = "a spawned task and oneshot".to_owned();
    table.row([spawned, rate(spawns), format!("{spawn_ratio:.2}"), none(), none()]);
    let (goal, met) = (format!("≤ {ASYNC_GOAL}"), verdict(own_ratio <= ASYNC_GOAL));
    table.row(["async method".to_owned(), rate(owns), format!("{own_ratio:.2}"), goal, met]);
    table.note("The callers are tasks of one thread; the work is done on another runtime.");
    Ok(table)
}

/// Returns the nanoseconds per call of many concurrent callers.
fn round(
    runtime: &tokio::runtime::Runtime,
    calls: usize,
    call: impl AsyncFn(u64, u64) -> u64,
) -> f64 {
    let caller = async || {
        for number in 0..calls as u64 {
            assert_eq!(call(number, 1).await, number + 1);
        }
    };
    let start = Instant::now();
    runtime.block_on(join_all((0..CALLERS).map(|_| caller())));
    start.elapsed().as_nanos() as f64 / (calls * CALLERS) as f64
}
