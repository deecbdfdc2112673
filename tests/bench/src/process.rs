//! Memory and time of this process and of measured children.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// Resources used by a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) max_rss_bytes: u64,
}

/// Returns a command for another program.
#[expect(clippy::disallowed_methods, reason = "benchmarks start programs to measure them")]
pub(crate) fn program(program: impl AsRef<Path>) -> Command {
    Command::new(program.as_ref())
}

/// Returns a command that runs this program again.
pub(crate) fn this_program(arguments: &[String]) -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let mut command = program(own);
    command.args(arguments);
    Ok(command)
}

/// Runs this program as a child, and reads the numbers it prints.
pub(crate) fn numbers<const N: usize>(command: &mut Command) -> anyhow::Result<[f64; N]> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the child failed with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers?.try_into() {
        Ok(numbers) => Ok(numbers),
        Err(found) => bail!("the child printed {} numbers, expected {N}", found.len()),
    }
}

/// Runs `command` to its end and measures it. Its output goes to `stdout`.
///
/// The system attributes this process's initial memory to the child, so call it from a small
/// process.
pub(crate) fn measured(command: &mut Command, stdout: std::fs::File) -> anyhow::Result<Usage> {
    let start = Instant::now();
    let child = command.stdout(stdout).spawn()?;
    let id = libc::pid_t::try_from(child.id())?;
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: waits for a child that is not awaited elsewhere, and writes to two local variables.
    let waited = unsafe { libc::wait4(id, &raw mut status, 0, usage.as_mut_ptr()) };
    let wall = start.elapsed();
    ensure!(waited == id, "cannot wait: {}", io::Error::last_os_error());
    ensure!(status == 0, "the child's status is {status}");
    // SAFETY: written by the call above.
    Ok(taken(unsafe { usage.assume_init() }, wall))
}

/// Returns the resources used by this process so far.
pub(crate) fn own() -> Usage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: writes to a local variable for which zeros are valid.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: as above.
    taken(unsafe { usage.assume_init() }, Duration::ZERO)
}

/// Returns the resident bytes of this process.
pub(crate) fn rss_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).context("statm has no second field")?;
    // SAFETY: reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages.parse::<u64>()? * u64::try_from(page)?)
}

/// Returns the resident anonymous bytes of this process.
pub(crate) fn anonymous_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("status has no `RssAnon`")?.parse::<u64>()? << 10)
}

/// Returns the voluntary and involuntary context switches of this thread.
pub(crate) fn switches() -> (i64, i64) {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: writes to a local variable for which zeros are valid.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: as above.
    let usage = unsafe { usage.assume_init() };
    (usage.ru_nvcsw, usage.ru_nivcsw)
}

/// Returns the files under `dir` that are mapped into this process, including deleted ones.
pub(crate) fn mapped(dir: &Path) -> anyhow::Result<BTreeSet<String>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let dir = dir.to_str().context("the folder's path is not UTF-8")?;
    let files = maps.lines().filter_map(|line| line.find(dir).map(|at| line[at..].to_owned()));
    Ok(files.collect())
}

fn taken(usage: libc::rusage, wall: Duration) -> Usage {
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    Usage {
        wall,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss.unsigned_abs() << 10,
    }
}
