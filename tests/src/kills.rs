//! Kills a plugin's process at random moments while callers call it, and books what became of
//! each call. It decides nothing about what is good enough.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{Error, ErrorKind, HostEvent, PluginHandle, Reply, Request};

use crate::{block_on, end_process, processes_of, until};

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub struct Kills {
    /// How many processes are killed.
    pub kills: u32,
    /// Threads that call without pause; every other one waits for futures.
    pub callers: usize,
    /// The time that each call has.
    pub timeout: Duration,
    /// Kills come at most so long after the process before was seen.
    pub max_pause: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Killed {
    /// Calls that were answered by what they had sent.
    pub answered: u64,
    /// Other answers, and errors that no caller should see.
    pub wrong: Vec<String>,
    /// Errors by their kinds.
    pub failed: BTreeMap<String, u64>,
    /// How long after its deadline a call was told, at most.
    pub max_late: Duration,
    /// From a kill to the next answer.
    pub restarts: Vec<Duration>,
    /// As the host tells it, for each process that was started again.
    pub after_ms: Vec<u64>,
}

/// Kills processes of a plugin that answers with its input.
///
/// # Panics
///
/// When no process is there to be killed for a long time, or the plugin never answers again.
pub fn kill_often(plugin: &PluginHandle, events: &mut hotbay::Events, how: Kills) -> Killed {
    let stop = AtomicBool::new(false);
    let mut killed = Killed::default();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..how.callers)
            .map(|caller| {
                let stop = &stop;
                scope.spawn(move || call_until(stop, plugin, caller, how.timeout))
            })
            .collect();
        // The callers end even if there is nothing to kill.
        let ended = StopsAtEnd(&stop);
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for number in 0..how.kills {
            // The moment is to be any moment; nothing is waited for.
            thread::sleep(how.max_pause.mul_f64(random.next()));
            let killed_at = until("a process is there", || {
                let process = *processes_of(plugin.name().as_str()).first()?;
                let now = Instant::now();
                end_process(process).then_some(now)
            });
            // Every fourth time the next one is killed whatever it is doing by then.
            if number % 4 != 3 {
                until("it answers again", || plugin.call(probe()).ok());
                killed.restarts.push(killed_at.elapsed());
            }
            while let Some(event) = events.try_next() {
                if let HostEvent::Restarted { after, .. } = event {
                    killed.after_ms.push(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                }
            }
        }
        until("it answers at last", || plugin.call(probe()).ok());
        drop(ended);
        for caller in callers {
            killed.add(caller.join().expect("a caller does not panic"));
        }
    });
    killed
}

fn probe() -> Request<'static> {
    // A host that never answers is found out, and not waited for.
    Request::text("probe").idempotent().deadline_in(Duration::from_secs(10))
}

struct StopsAtEnd<'a>(&'a AtomicBool);

impl Drop for StopsAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Chance that is the same each time.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from((self.0 >> 40) as u32) / f64::from(1 << 24)
    }
}

fn call_until(
    stop: &AtomicBool,
    plugin: &PluginHandle,
    caller: usize,
    timeout: Duration,
) -> Killed {
    let mut killed = Killed::default();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let text = format!("{caller}-{number}");
        let deadline = Instant::now() + timeout;
        let request = Request::text(&text).idempotent().deadline_at(deadline);
        let outcome = match caller % 2 {
            0 => plugin.call(request),
            _ => block_on(plugin.execute(request)),
        };
        killed.max_late = killed.max_late.max(deadline.elapsed());
        killed.note(&text, outcome);
    }
    killed
}

impl Killed {
    fn note(&mut self, text: &str, outcome: Result<Reply, Error>) {
        match outcome {
            Ok(reply) if reply.as_bytes() == text.as_bytes() => self.answered += 1,
            Ok(reply) => {
                self.wrong.push(format!("`{text}` was answered by {:?}", reply.as_text()));
            }
            Err(error) => {
                *self.failed.entry(format!("{:?}", error.kind())).or_default() += 1;
                let is_expected = matches!(
                    error.kind(),
                    ErrorKind::Disconnected | ErrorKind::DeadlineExceeded | ErrorKind::StartFailed
                );
                if !is_expected {
                    self.wrong.push(error.full_message());
                }
                thread::yield_now();
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.wrong.extend(other.wrong);
        for (kind, count) in other.failed {
            *self.failed.entry(kind).or_default() += count;
        }
        self.max_late = self.max_late.max(other.max_late);
    }
}
