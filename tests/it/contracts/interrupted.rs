//! Typed calls of all kinds while their plugin is killed or reloaded: each has one outcome, and a
//! result belongs to its call.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::{join, join_all};
use hotbay::contract::{CallError, Handle, Stream};
use hotbay::{Error, ErrorKind, Host};
use hotbay_tests::{
    LIMIT, Plugins, StopOnDrop, block_on, end_process, limits, loaded, reloaded, until,
};
use serde_json::json;
use text_contract::Echoes;

use super::runtimes::program;

const CALLERS: u64 = 8;
const ITEMS: u32 = 40;

/// A pseudorandom generator.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(0x9E37_79B9_7F4A_7C15 ^ (seed + 1))
    }

    /// Returns a number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// The outcomes of all calls.
#[derive(Debug, Default)]
struct Outcomes {
    finished: AtomicU64,
    answered: AtomicU64,
    failed: Mutex<BTreeMap<&'static str, u64>>,
}

impl Outcomes {
    fn note(&self, outcome: Result<(), Error>, expected: &[ErrorKind]) {
        match outcome {
            Ok(()) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                assert!(expected.contains(&error.kind()), "{}", error.full_message());
                *self.failed.lock().unwrap().entry(error.kind().as_str()).or_default() += 1;
            }
        }
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

/// Checks the items of a stream up to its end or failure.
fn check_item(text: &str, at: u32, item: &str) {
    assert_eq!(item, format!("{text} {at}"));
}

fn read(text: &str, stream: Stream<String>) -> Result<(), CallError> {
    let mut read = 0;
    for item in stream {
        check_item(text, read, &item?);
        read += 1;
    }
    assert_eq!(read, ITEMS, "a stream ended early");
    Ok(())
}

async fn read_async(text: &str, mut stream: Stream<String>) -> Result<(), CallError> {
    let mut read = 0;
    while let Some(item) = stream.try_next().await? {
        check_item(text, read, &item);
        read += 1;
    }
    assert_eq!(read, ITEMS, "a stream ended early");
    Ok(())
}

/// Makes a call of a random kind, and checks its result.
fn call(echoes: &Handle<dyn Echoes>, random: &mut Random, text: &str) -> Result<(), Error> {
    let check = |answer: Result<String, CallError>| {
        assert_eq!(answer?, text);
        Ok(())
    };
    // So that a lost call fails the test.
    let limited = echoes.with_timeout(LIMIT / 2);
    let us = random.below(500);
    let outcome = match random.below(12) {
        0 => check(echoes.echo(text)),
        1 => check(limited.echo(text)),
        2 => check(limited.pooled().echo(text)),
        3 => check(echoes.pin()?.echo(text)),
        4 => check(block_on(echoes.echo_later(us, text))),
        5 => check(block_on(limited.echo_later(us, text))),
        6 => check(block_on(limited.pooled().echo_later(us, text))),
        7 => check(block_on(echoes.pin()?.echo_later(us, text))),
        8 => limited.each(text, ITEMS).and_then(|stream| read(text, stream)),
        9 => limited.each_later(text, ITEMS).and_then(|stream| read(text, stream)),
        10 => {
            let stream = limited.pooled().each(text, ITEMS);
            stream.and_then(|stream| block_on(read_async(text, stream)))
        }
        _ => {
            let stream = echoes.each_later(text, ITEMS);
            // Not read to its end.
            stream.and_then(|mut stream| match stream.next() {
                Some(item) => item.map(|item| check_item(text, 0, &item)),
                None => panic!("a stream ended early"),
            })
        }
    };
    outcome.map_err(Error::from)
}

/// Calls on all threads while `interrupt` runs, which gets a function that waits until a random
/// number of calls below a limit has finished.
fn call_while(
    echoes: &Handle<dyn Echoes>,
    expected: &[ErrorKind],
    interrupt: impl FnOnce(&mut dyn FnMut(u64)),
) -> Outcomes {
    let outcomes = Outcomes::default();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = StopOnDrop(&is_done);
        for caller in 0..CALLERS {
            let (outcomes, is_done) = (&outcomes, &is_done);
            scope.spawn(move || {
                // A caller that fails ends the test.
                let mut stop = Some(StopOnDrop(is_done));
                let mut random = Random::new(caller);
                let mut number = 0;
                while !is_done.load(Ordering::Relaxed) {
                    number += 1;
                    let text = format!("{caller}-{number}");
                    outcomes.note(call(echoes, &mut random, &text), expected);
                }
                std::mem::forget(stop.take());
            });
        }
        let mut random = Random::new(CALLERS);
        interrupt(&mut |end| {
            let target = outcomes.finished.load(Ordering::Relaxed) + random.below(end);
            until("the calls go on", || {
                assert!(!is_done.load(Ordering::Relaxed), "a caller failed");
                (outcomes.finished.load(Ordering::Relaxed) >= target).then_some(())
            });
        });
        drop(stop);
    });
    outcomes
}

/// Asserts that no call is in flight, and that as many calls as allowed can be.
fn check_counters(host: &Host, echoes: &Handle<dyn Echoes>, max_in_flight: Option<u32>) {
    until("no call is counted as running", || {
        let stats = &host.list()[0].stats;
        (stats.waiting == 0 && stats.running == 0).then_some(())
    });
    let Some(max) = max_in_flight else { return };
    // A dropped stream is counted until its plugin has dropped it.
    let texts: Vec<_> = (0..max).map(|number| number.to_string()).collect();
    until("all permits are free", || {
        let calls = texts.iter().map(|text| echoes.echo_later(1_000, text));
        let answers = block_on(join_all(calls));
        texts
            .iter()
            .zip(answers)
            .all(|(text, answer)| answer.is_ok_and(|it| it == *text))
            .then_some(())
    });
}

fn host_with(plugins: &Plugins, max_in_flight: Option<u32>) -> Host {
    let limits = limits(|limits| limits.max_in_flight = max_in_flight);
    let builder = Host::builder().plugin_dir(plugins.dir()).limits(limits);
    builder.quarantine(None).build().unwrap()
}

/// More than the callers have at any time, since streams that were dropped may count for a while.
const MANY: u32 = 64;

#[test]
fn killed_process_gives_each_call_one_outcome() {
    const KILLS: u32 = 30;
    let plugins = Plugins::new();
    let host = host_with(&plugins, Some(MANY));
    loaded(&host, program(&plugins, "killed").install());
    let echoes = host.contract::<dyn Echoes>("killed").unwrap();
    let expected = [ErrorKind::Disconnected, ErrorKind::StartFailed];
    let outcomes = call_while(&echoes, &expected, |wait_for_calls| {
        let mut last = None;
        for _ in 0..KILLS {
            wait_for_calls(100);
            let pid = until("another process exists", || {
                host.list()[0].pid.filter(|pid| Some(*pid) != last && end_process(*pid))
            });
            last = Some(pid);
        }
        until("the plugin serves again", || echoes.echo("again").ok());
        wait_for_calls(100);
    });
    assert!(outcomes.answered.load(Ordering::Relaxed) > 0, "{outcomes:?}");
    until("all exits are counted", || {
        (host.list()[0].stats.exits == u64::from(KILLS)).then_some(())
    });
    check_counters(&host, &echoes, Some(MANY));
    let report = block_on(host.unload("killed")).unwrap();
    assert_eq!(report.retain_reason, None, "{report:?}");
}

fn reload_often(max_in_flight: Option<u32>) {
    const RELOADS: u32 = 40;
    let plugins = Plugins::new();
    let host = host_with(&plugins, max_in_flight);
    loaded(&host, plugins.add("reloaded", "unclean").write());
    let echoes = host.contract::<dyn Echoes>("reloaded").unwrap();
    // Of a pin that was replaced before its call.
    let outcomes = call_while(&echoes, &[ErrorKind::Retired], |wait_for_calls| {
        for round in 0..RELOADS {
            let config = json!({ "build": round });
            plugins.add("reloaded", "unclean").config(config).write();
            reloaded(&host, "reloaded");
            wait_for_calls(200);
        }
    });
    let answered = outcomes.answered.load(Ordering::Relaxed);
    assert!(answered > outcomes.finished.load(Ordering::Relaxed) / 2, "{outcomes:?}");
    assert_eq!(echoes.echo("again").unwrap(), "again");
    check_counters(&host, &echoes, max_in_flight);
    // A lease that was not returned would keep its library.
    let report = block_on(host.unload("reloaded")).unwrap();
    assert_eq!(report.retain_reason, None, "{report:?}");
    until("all builds are closed", || host.retained().is_empty().then_some(()));
}

#[test]
fn reloaded_library_gives_each_call_one_outcome() {
    reload_often(None);
    reload_often(Some(MANY));
}

#[test]
fn completions_deadlines_and_unloads_race_for_one_outcome() {
    const ROUNDS: u64 = 25;
    const CALLS: u64 = 32;
    const DRAIN: Duration = Duration::from_millis(2);
    let plugins = Plugins::new();
    let limits = limits(|limits| limits.drain_timeout = DRAIN);
    let builder = Host::builder().plugin_dir(plugins.dir()).limits(limits);
    let host = builder.quarantine(None).build().unwrap();
    let folder = plugins.add("races", "unclean").write();
    let (outcomes, mut random) = (Outcomes::default(), Random::new(7));
    let expected = [ErrorKind::DeadlineExceeded, ErrorKind::Retired];
    for round in 0..ROUNDS {
        loaded(&host, &folder);
        let echoes = host.contract::<dyn Echoes>("races").unwrap();
        // Starts the runtime; later calls without options take the brief path.
        assert_eq!(block_on(echoes.echo_later(0, "first")).unwrap(), "first");
        let calls: Vec<_> = (0..CALLS)
            .map(|number| {
                // Tasks end around the end of the drain, and their deadlines around the same time.
                let us = random.below(2 * DRAIN.as_micros() as u64);
                let timeout = Duration::from_micros(us / 2 + random.below(us + 1));
                let limited = echoes.with_timeout(timeout);
                let echoes = echoes.clone();
                async move {
                    let text = format!("{round}-{number}");
                    let answer = match number % 5 {
                        0 => limited.pooled().echo_later(us, &text).await,
                        1 => limited.pin()?.echo_later(us, &text).await,
                        2 => limited.echo_later(us, &text).await,
                        3 => echoes.echo_later(us, &text).await,
                        // Outlasts the drain.
                        _ => echoes.echo_later(600_000_000, &text).await,
                    };
                    answer.map(|answer| assert_eq!(answer, text)).map_err(Error::from)
                }
            })
            .collect();
        let (ended, report) = block_on(join(join_all(calls), host.unload("races")));
        for outcome in ended {
            outcomes.note(outcome, &expected);
        }
        let report = report.unwrap();
        assert!(report.shutdown_error.is_none(), "{report:?}");
        assert_eq!(report.retain_reason, None, "{report:?}");
    }
    let failed = outcomes.failed.lock().unwrap().clone();
    let answered = outcomes.answered.load(Ordering::Relaxed);
    assert_eq!(answered + failed.values().sum::<u64>(), ROUNDS * CALLS);
    assert!(answered > 0 && failed.len() == 2, "{answered} {failed:?}");
    assert_eq!(host.retained().len(), 0);
}
