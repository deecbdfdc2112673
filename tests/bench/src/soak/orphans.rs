//! Kills a host repeatedly whose plugins fork: nothing of them is left.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::goals::Goals;
use crate::fixtures::{self, install_program};
use crate::process::this_program;
use crate::sample::quantile;
use crate::table::Report;

const MAX_GONE: Duration = Duration::from_secs(1);
/// A plugin, three forked processes, and a guardian.
const PROCESSES: usize = 5;

/// Runs as the host to be killed.
pub(crate) fn host(staging: &Path, folders: &[OsString]) {
    let folders: Vec<_> = folders.iter().map(PathBuf::from).collect();
    hotbay_tests::host_until_killed(&folders, staging);
}

pub(crate) fn soak(count: u64, report: &Report) -> anyhow::Result<bool> {
    let program = fixtures::program("program")?;
    let dir = fixtures::folder()?;
    let staging = dir.path().join("staged");
    std::fs::create_dir(&staging)?;
    let mut arguments =
        vec!["--child".to_owned(), "host".to_owned(), staging.display().to_string()];
    let names = ["one", "two"];
    for name in names {
        let folder = install_program(&program, &dir.path().join("plugins"), name)?;
        arguments.push(folder.display().to_string());
    }
    let (mut times, mut left) = (Vec::new(), Vec::new());
    let (mut processes, mut unseen) = (0, 0);
    for _ in 0..count {
        let orphaned = hotbay_tests::orphan(&mut this_program(&arguments)?);
        processes += orphaned.processes;
        unseen += (names.len() * PROCESSES).abs_diff(orphaned.processes);
        match orphaned.exited_after {
            Some(took) => times.push(took.as_secs_f64() * 1e3),
            None => left.extend(orphaned.left),
        }
    }
    let at = |part| quantile(times.clone(), part);
    let mut goals = Goals::new(format!("Orphans: a host killed {count} times with SIGKILL"));
    goals.found("plugin processes", processes);
    goals.none_of("missing or surplus processes", unseen);
    goals.found("time until all exited, p50, ms", format!("{:.0}", at(0.5)));
    let is_met = at(1.0) <= MAX_GONE.as_secs_f64() * 1e3;
    goals.goal("time until all exited, max, ms", format!("{:.0}", at(1.0)), "≤ 1000", is_met);
    goals.none_of("processes and folders left", left.len());
    for left in left.iter().take(5) {
        goals.note(left);
    }
    goals.note(
        "Each of two plugins has a guardian, a child in its group, and two children in separate \
         sessions, one of which closed the pipes. The soak finds all of them by the tag of their \
         launch, in any process's environment or arguments. It finds folders by the host's process \
         id.",
    );
    Ok(goals.print(report))
}
