//! Pooled calls from one and from many callers, compared with tokio's blocking pool and with a bare
//! bounded channel with oneshot replies, all doing the same work.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use hotbay::{PluginHandle, Request};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::fixtures::{Echoes, Fixtures};
use crate::raw::RawPlugin;
use crate::sample::quantile;
use crate::table::{Report, Table, none, verdict};

const MAX_LATENCY_RATIO: f64 = 1.2;
const MIN_RATE_RATIO: f64 = 5.0;
const MAX_COST_RATIO: f64 = 1.3;
const NAMES: [&str; 3] = ["execute", "tokio spawn_blocking", "channel and oneshot"];

/// One round of calls: calls per second, and the nanoseconds of each call.
struct Round {
    rate: f64,
    times: Vec<f64>,
}

/// All rounds of one contender.
struct Found {
    rate: f64,
    rates: Vec<f64>,
    p50: f64,
    p99: f64,
}

pub(crate) fn measure(fixtures: &Fixtures, quick: bool, report: &Report) -> anyhow::Result<()> {
    let raw = Arc::new(RawPlugin::load(&fixtures.raw)?);
    let echoes = Echoes::load(fixtures)?;
    let plugin = echoes.host.plugin("counted-heap")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    let bare = Bare::start(&raw)?;
    let (rounds, calls) = if quick { (1, 200) } else { (9, 40_000) };
    let mut table = Table::new(
        "Pooled calls: 16 bytes",
        ["what", "callers", "calls/s, best", "p50 µs", "p99 µs", "ratio", "goal", ""],
    );
    for callers in [1, 64] {
        let mut found = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let calls = calls / callers;
            found[0].push(round(&runtime, callers, calls, || execute(plugin.clone())));
            found[1].push(round(&runtime, callers, calls, || blocking(Arc::clone(&raw))));
            found[2].push(round(&runtime, callers, calls, || bare.caller()));
        }
        let found = found.map(Found::of);
        for (index, (what, one)) in NAMES.into_iter().zip(&found).enumerate() {
            let [compared, goal, met] = compared(callers, index, &found);
            table.row([
                what.to_owned(),
                callers.to_string(),
                format!("{:.0}", one.rate),
                format!("{:.1}", one.p50 / 1e3),
                format!("{:.1}", one.p99 / 1e3),
                compared,
                goal,
                met,
            ]);
        }
    }
    table.note(
        "`execute` copies the input, catches panics, counts, and limits; the others call the raw \
         trait object. With one caller, `ratio` is the p50 of `execute` relative to \
         spawn_blocking. With 64 callers, it is the rate of `execute` relative to spawn_blocking, \
         and its cost relative to the channel. Ratios are medians of neighboring rounds.",
    );
    report.print(&table);
    Ok(())
}

/// Returns the compared value, its goal, and whether the goal is met.
fn compared(callers: usize, index: usize, found: &[Found; 3]) -> [String; 3] {
    let [own, blocking, bare] = found;
    match (callers, index) {
        (1, 0) => {
            let ratio = own.p50 / blocking.p50;
            let goal = format!("latency ≤ {MAX_LATENCY_RATIO}");
            [format!("{ratio:.2}"), goal, verdict(ratio <= MAX_LATENCY_RATIO)]
        }
        (64, 1) => {
            let ratio = own.times(blocking);
            let goal = format!("rate ≥ {MIN_RATE_RATIO}");
            [format!("{ratio:.2}"), goal, verdict(ratio >= MIN_RATE_RATIO)]
        }
        (64, 2) => {
            let ratio = bare.times(own);
            let goal = format!("cost ≤ {MAX_COST_RATIO}");
            [format!("{ratio:.2}"), goal, verdict(ratio <= MAX_COST_RATIO)]
        }
        _ => [none(), none(), none()],
    }
}

impl Found {
    fn of(rounds: Vec<Round>) -> Self {
        let rates: Vec<_> = rounds.iter().map(|round| round.rate).collect();
        let rate = rates.iter().copied().fold(0.0, f64::max);
        // Latencies of the median round: other rounds were disturbed or lucky.
        let at = |part| {
            let rounds = rounds.iter();
            quantile(rounds.map(|round| quantile(round.times.clone(), part)).collect(), 0.5)
        };
        Self { rate, rates, p50: at(0.5), p99: at(0.99) }
    }

    /// Returns the ratio of rates to `other`: the median over neighboring rounds.
    fn times(&self, other: &Self) -> f64 {
        let pairs = self.rates.iter().zip(&other.rates);
        quantile(pairs.map(|(own, other)| own / other).collect(), 0.5)
    }
}

/// Runs `callers` callers that each make `calls` calls in sequence.
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
    let mut times = Vec::with_capacity(callers * calls);
    for task in tasks {
        times.extend(runtime.block_on(task).expect("no panic"));
    }
    Round { rate: times.len() as f64 / start.elapsed().as_secs_f64(), times }
}

type Calling = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn execute(plugin: PluginHandle) -> impl Fn() -> Calling {
    move || {
        let answer = plugin.execute(Request::bytes(&[b'x'; 16]));
        Box::pin(async {
            answer.await.expect("the echo succeeds");
        })
    }
}

fn blocking(raw: Arc<RawPlugin>) -> impl Fn() -> Calling {
    move || {
        let raw = Arc::clone(&raw);
        let input = vec![b'x'; 16];
        Box::pin(async {
            let answer = tokio::task::spawn_blocking(move || raw.object(&input));
            answer.await.expect("no panic");
        })
    }
}

type Answer = abi_stable::std_types::RVec<u8>;
type Job = (Vec<u8>, oneshot::Sender<Answer>);

/// As many threads on a bounded channel as a plugin has workers.
struct Bare {
    sender: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Bare {
    fn start(raw: &Arc<RawPlugin>) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>(1024);
        let receiver = Arc::new(Mutex::new(receiver));
        let workers = std::thread::available_parallelism()?.get();
        let thread = |_| {
            let (raw, receiver) = (Arc::clone(raw), Arc::clone(&receiver));
            std::thread::spawn(move || {
                let next = || receiver.lock().expect("no panic").blocking_recv();
                while let Some((input, answer)) = next() {
                    let _ = answer.send(raw.object(&input));
                }
            })
        };
        Ok(Self { sender: Some(sender), threads: (0..workers).map(thread).collect() })
    }

    fn caller(&self) -> impl Fn() -> Calling + use<> {
        let sender = self.sender.clone();
        move || {
            let sender = sender.clone();
            Box::pin(async move {
                let (answer, reply) = oneshot::channel();
                let sender = sender.expect("the sender exists");
                sender.send((vec![b'x'; 16], answer)).await.expect("a worker");
                reply.await.expect("an answer");
            })
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.sender.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
