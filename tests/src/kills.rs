//! Kills a plugin's process at random moments while callers call it, and records the outcome of
//! each call. Callers of this module decide which outcomes are acceptable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hotbay::{Error, ErrorKind, HostEvent, PluginHandle, Reply, Request};

use crate::{StopOnDrop, block_on, end_process, processes_of, until};

/// Settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Kills {
    /// Number of processes to kill.
    pub kills: u32,
    /// Number of threads that call in a loop; every second one uses futures.
    pub callers: usize,
    /// Deadline of each call.
    pub timeout: Duration,
    /// Maximum pause before a kill.
    pub max_pause: Duration,
}

/// Results of a run.
#[derive(Debug, Default)]
pub struct Killed {
    /// Calls answered with their own input.
    pub answered: u64,
    /// Other answers, and unexpected errors.
    pub wrong: Vec<String>,
    /// Expected errors, counted by kind.
    pub failed: BTreeMap<String, u64>,
    /// Maximum delay of a result after its deadline.
    pub max_late: Duration,
    /// Times from a kill to the next answer.
    pub restarts: Vec<Duration>,
    /// Backoff that the host reported for each restart.
    pub after_ms: Vec<u64>,
}

/// Kills processes of a plugin that echoes its input.
///
/// # Panics
///
/// Panics if no process appears for a long time, or the plugin does not recover.
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
        // Stops the callers even if a wait below panics.
        let ended = StopOnDrop(&stop);
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for number in 0..how.kills {
            // A random moment; nothing is awaited.
            thread::sleep(how.max_pause.mul_f64(random.next()));
            let killed_at = until("a process exists", || {
                let process = *processes_of(plugin.name().as_str()).first()?;
                let now = Instant::now();
                end_process(process).then_some(now)
            });
            // Every fourth kill follows at once, whatever the next process is doing.
            if number % 4 != 3 {
                until("the plugin answers again", || plugin.call(probe()).ok());
                killed.restarts.push(killed_at.elapsed());
            }
            while let Some(event) = events.try_next() {
                if let HostEvent::Restarted { after, .. } = event {
                    killed.after_ms.push(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                }
            }
        }
        until("the plugin recovers", || plugin.call(probe()).ok());
        drop(ended);
        for caller in callers {
            killed.add(caller.join().expect("callers do not panic"));
        }
    });
    killed
}

fn probe() -> Request<'static> {
    // A deadline, so that a host that never answers fails the test.
    Request::text("probe").with_idempotent(true).with_timeout(Duration::from_secs(10))
}

/// A pseudorandom generator with a fixed seed.
struct Random(u64);

impl Random {
    /// Returns a number from 0 to 1.
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
        let request = Request::text(&text).with_idempotent(true).with_deadline(deadline);
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
