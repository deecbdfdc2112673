//! Kills a plugin's process repeatedly while it is called: every call ends in time, no reply
//! belongs to another call, and nothing is left.

use std::time::Duration;

use hotbay::Host;
use hotbay_tests::{Kills, ResourceSnapshot, kill_often};

use super::goals::Goals;
use super::swapper::runtime;
use crate::fixtures::{self, install_program};
use crate::sample::quantile;
use crate::table::Report;

const MAX_RESTART_MS: f64 = 50.0;
const MAX_LATE_MS: f64 = 50.0;
/// Exiting threads still have to close their descriptors.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

const HOW: Kills = Kills {
    kills: 0,
    callers: 4,
    timeout: Duration::from_secs(1),
    max_pause: Duration::from_millis(30),
};

pub(crate) fn soak(count: u64, report: &Report) -> anyhow::Result<bool> {
    let program = fixtures::program("bench-echo-program")?;
    let dir = fixtures::folder()?;
    let folder = install_program(&program, &dir.path().join("plugins"), "echo")?;
    let staging = dir.path().join("staged");
    std::fs::create_dir(&staging)?;
    let run = |kills: u32| {
        let host = Host::builder().quarantine(None).staging_dir(&staging).build()?;
        let runtime = runtime()?;
        let plugin = runtime.block_on(host.load(&folder))?;
        let killed = kill_often(&plugin, &mut host.events(), Kills { kills, ..HOW });
        runtime.block_on(host.shutdown(Duration::from_secs(10)));
        anyhow::Ok(killed)
    };
    // Resources that are created once and kept exist by now.
    run(2)?;
    let before = ResourceSnapshot::take();
    let killed = run(u32::try_from(count)?)?;
    let mut left = before.leftovers_within(SETTLE_TIMEOUT);
    let staged = std::fs::read_dir(&staging)?.flatten();
    left.extend(staged.map(|file| file.path().display().to_string()));

    let mut goals = Goals::new(format!("Kills: a process killed {count} times with SIGKILL"));
    goals.found("calls answered", killed.answered);
    for (kind, count) in &killed.failed {
        goals.found(&format!("calls failed with `{kind}`"), count);
    }
    goals.none_of("wrong replies and other errors", killed.wrong.len());
    let late_ms = killed.max_late.as_secs_f64() * 1e3;
    let goal = format!("≤ {MAX_LATE_MS}");
    let in_time = late_ms <= MAX_LATE_MS;
    goals.goal("result after deadline, max, ms", format!("{late_ms:.1}"), &goal, in_time);
    let restarts: Vec<_> = killed.restarts.iter().map(|took| took.as_secs_f64() * 1e3).collect();
    let at = |part| quantile(restarts.clone(), part);
    let goal = format!("< {MAX_RESTART_MS}");
    let is_met = at(0.5) < MAX_RESTART_MS;
    goals.hope("kill to next reply, p50, ms", format!("{:.1}", at(0.5)), &goal, is_met);
    goals.found("kill to next reply, p99, ms", format!("{:.1}", at(0.99)));
    goals.found("kill to next reply, max, ms", format!("{:.1}", at(1.0)));
    let after_ms: Vec<_> = killed.after_ms.iter().map(|&ms| ms as f64).collect();
    let at = |part| quantile(after_ms.clone(), part);
    goals.found("processes restarted", after_ms.len());
    let is_met = at(0.5) < MAX_RESTART_MS;
    goals.hope("`after_ms` of `Restarted`, p50", at(0.5), &goal, is_met);
    goals.found("`after_ms` of `Restarted`, p99", at(0.99));
    goals.none_of("zombies, descriptors, folders and files left", left.len());
    for wrong in killed.wrong.iter().take(5).chain(&left) {
        goals.note(wrong);
    }
    goals.note(
        "4 callers use `call` and `execute` without pause, with idempotent requests and deadlines \
         of 1 s. Every fourth kill is followed by another at a random moment, often in the middle \
         of a start. The other kills are followed by a timed call. Quarantine is off.",
    );
    Ok(goals.print(report))
}
