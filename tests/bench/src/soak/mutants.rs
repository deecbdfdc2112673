//! Installs damaged libraries for a serving plugin: each is refused with a reason, and the old code
//! keeps serving. The `hotbay` command survives those without a digest.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hotbay::{Host, HostEvent, Request};
use hotbay_fuzz::{DAMAGES, Mutation};

use super::load::{CallMethod, Calls, calls, configs};

use super::swapper::runtime;
use crate::builds::{Builds, Kind};
use crate::fixtures;
use crate::process;
use crate::table::{Report, Table, none, verdict};

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A check that takes longer hangs.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn soak(count: u64, quick: bool, report: &Report) -> anyhow::Result<bool> {
    let built = fixtures::library("transform")?;
    let command = fixtures::command()?;
    let (unsealed, watched, checked) = if quick { (10, 3, 15) } else { (50, 20, 2000) };
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    let mut calls = Calls::default();

    let sealed = reloaded(&built, count, true, &mut calls)?;
    let what = "with a digest, by `Host::reload`".to_owned();
    rows.push((what, count, sealed.refused, sealed.refused == count));
    let sealed_by_watch = watched_ones(&built, watched, &mut calls)?;
    let what = "with a digest, by a watch".to_owned();
    rows.push((what, watched, sealed_by_watch, sealed_by_watch == watched));
    let bare = reloaded(&built, unsealed, false, &mut calls)?;
    let what = "without a digest: refused with a hint".to_owned();
    rows.push((what, unsealed, bare.refused, bare.refused == unsealed && bare.advised == unsealed));
    let codes = check_all(&built, &command, checked)?;
    let survived = codes.iter().filter(|(code, _)| ["0", "1"].contains(&code.as_str()));
    let survived: u64 = survived.map(|(_, count)| count).sum();
    let what = "without a digest: `hotbay check` survives".to_owned();
    rows.push((what, checked, survived, survived == checked));

    let mut is_met = true;
    let title = format!("Mutants of `transform`: {}", DAMAGES.join(", "));
    let mut table = Table::new(title, ["what", "mutants", "as expected", "goal", ""]);
    for (what, mutants, good, met) in rows {
        is_met &= met;
        table.row([what, mutants.to_string(), good.to_string(), "all".to_owned(), verdict(met)]);
    }
    let (made, failed) = (calls.made.to_string(), calls.failed + calls.wrong + calls.lost());
    is_met &= failed == 0;
    let what = "failed calls to the old build".to_owned();
    table.row([what, none(), failed.to_string(), "0".to_owned(), verdict(failed == 0)]);
    table.row(["calls to the old build".to_owned(), none(), made, none(), none()]);
    notes.push(format!("Exit codes of `hotbay check`: {codes:?}."));
    for (reason, count) in sealed.reasons.iter().chain(&bare.reasons) {
        notes.push(format!("{count} times: {reason}"));
    }
    notes.extend(calls.first.map(|first| format!("First failed call: {first}")));
    for note in notes {
        table.note(note);
    }
    report.print(&table);
    Ok(is_met)
}

#[derive(Debug, Default)]
struct Refused {
    refused: u64,
    /// Reasons without numbers, with their counts.
    /// Refused with the hint to seal the plugin.
    advised: u64,
    reasons: BTreeMap<String, u64>,
}

/// Installs mutants for a plugin under load, and requests reloads.
fn reloaded(built: &Path, count: u64, is_sealed: bool, sum: &mut Calls) -> anyhow::Result<Refused> {
    let dir = fixtures::folder()?;
    let builds = builds(dir.path(), built)?;
    let runtime = runtime()?;
    let host = Host::builder().build()?;
    let handle = runtime.block_on(host.load(&builds.folder))?;
    if !is_sealed {
        builds.unseal()?;
    }
    let mut mutation = Mutation::new(SEED);
    let mut refused = Refused::default();
    under_calls(&handle, sum, || {
        for number in 0..count {
            let bytes = mutation.of(builds.library(0), number as usize);
            builds.ready_library(&bytes)?.put()?;
            match runtime.block_on(host.reload("transform")) {
                Ok(reloaded) => eprintln!("mutant {number} was not refused: {reloaded:?}"),
                Err(error) => {
                    refused.refused += 1;
                    let is_advised = error.hint().is_some_and(|hint| hint.contains("seal"));
                    refused.advised += u64::from(is_advised);
                    let reason = without_numbers(&error.full_message(), dir.path());
                    *refused.reasons.entry(reason).or_default() += 1;
                }
            }
        }
        Ok(())
    })?;
    runtime.block_on(host.shutdown(Duration::from_secs(5)));
    Ok(refused)
}

/// Installs mutants for a watched plugin; returns how many were reported as refused.
fn watched_ones(built: &Path, count: u64, sum: &mut Calls) -> anyhow::Result<u64> {
    let dir = fixtures::folder()?;
    let builds = builds(dir.path(), built)?;
    let runtime = runtime()?;
    let host = Host::builder().plugin_dir(dir.path().join("plugins")).hot_reload(true).build()?;
    let report = runtime.block_on(host.load_all());
    ensure!(report.refused.is_empty(), "{:?}", report.refused);
    let handle = host.plugin("transform")?;
    let mut events = host.events();
    let mut mutation = Mutation::new(SEED ^ 0xff);
    let mut refused = 0;
    under_calls(&handle, sum, || {
        for number in 0..count {
            let bytes = mutation.of(builds.library(0), number as usize);
            builds.ready_library(&bytes)?.put()?;
            let event = async { tokio::time::timeout(EVENT_TIMEOUT, events.next()).await };
            match runtime.block_on(event).context("no event for a mutant")? {
                Some(HostEvent::RolledBack { .. }) => refused += 1,
                other => eprintln!("unexpected event for mutant {number}: {other:?}"),
            }
        }
        Ok(())
    })?;
    runtime.block_on(host.shutdown(Duration::from_secs(5)));
    Ok(refused)
}

fn builds(dir: &Path, built: &Path) -> anyhow::Result<Builds> {
    let configs = configs();
    let kind = Kind { package: "transform", handover: "overlap", configs: &configs };
    Builds::new(dir, "transform", built, kind)
}

/// Runs `work` while a thread calls in a loop.
fn under_calls(
    handle: &hotbay::PluginHandle,
    sum: &mut Calls,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let caller = scope.spawn(|| calls(handle, CallMethod::Call, &stop));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let calls = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))?;
        sum.add(calls?);
        done
    });
    let reply = handle.call(Request::text("Last"))?;
    ensure!(reply.as_text()? == "LAST", "the old code no longer serves");
    done
}

/// Runs `hotbay check` on mutants without a digest; counts exit codes.
fn check_all(built: &Path, command: &Path, count: u64) -> anyhow::Result<BTreeMap<String, u64>> {
    let dir = fixtures::folder()?;
    let builds = builds(dir.path(), built)?;
    builds.unseal()?;
    let mut mutation = Mutation::new(SEED ^ 0xffff);
    let mut codes = BTreeMap::new();
    for number in 0..count {
        let bytes = mutation.of(builds.library(0), number as usize);
        builds.ready_library(&bytes)?.put()?;
        let code = match check(command, &dir.path().join("plugins"))? {
            None => "hangs".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => code.to_string(),
                (None, signal) => format!("signal {}", signal.unwrap_or_default()),
            },
        };
        if !["0", "1"].contains(&code.as_str()) {
            let kept = std::env::temp_dir().join(format!("hotbay-mutant-{number}.so"));
            std::fs::write(&kept, &bytes)?;
            eprintln!("mutant {number}: {code}; it is {}", kept.display());
        }
        *codes.entry(code).or_default() += 1;
    }
    Ok(codes)
}

/// Returns `None` if the command hangs.
fn check(command: &Path, plugins: &Path) -> anyhow::Result<Option<ExitStatus>> {
    let mut command = process::program(command);
    command.arg("check").arg(plugins);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let start = Instant::now();
    while start.elapsed() < CHECK_TIMEOUT {
        if let Some(status) = child.try_wait()? {
            if status.code() == Some(2) {
                bail!("`hotbay check` rejected its arguments");
            }
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Returns a reason without paths, digests and numbers, which differ between mutants.
fn without_numbers(reason: &str, dir: &Path) -> String {
    let reason = reason.replace(&*dir.to_string_lossy(), "…");
    let mut kind = String::new();
    for word in reason.split_whitespace() {
        let is_number = word.chars().any(|char| char.is_ascii_digit());
        kind += if is_number { "N" } else { word };
        kind.push(' ');
    }
    kind.trim_end().to_owned()
}
