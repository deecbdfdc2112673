//! Tests with real processes, run by `/bin/sh`.

use std::ffi::OsString;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{Child, RunToEnd, run_to_end};
use crate::guardian::{Guardian, SHELL};
use crate::launch::{ChildLimits, Launch, token};

/// Generous: only a failing test waits this long.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A launch, and whether and how it is guarded.
pub(crate) struct GuardedLaunch {
    launch: Launch,
    guarded: bool,
    pub(crate) remove_at_end: Option<PathBuf>,
}

impl Deref for GuardedLaunch {
    type Target = Launch;

    fn deref(&self) -> &Launch {
        &self.launch
    }
}

impl DerefMut for GuardedLaunch {
    fn deref_mut(&mut self) -> &mut Launch {
        &mut self.launch
    }
}

pub(crate) fn launch(script: &str, guarded: bool) -> GuardedLaunch {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    let path = path.unwrap_or_else(|| "/usr/bin:/bin".into());
    let launch = Launch {
        program: PathBuf::from("/bin/sh"),
        args: ["-c", script].map(OsString::from).to_vec(),
        folder: PathBuf::from("/"),
        environment: vec![("PATH".into(), path)],
        limits: ChildLimits::default(),
        sandbox: None,
        tag: token().unwrap(),
    };
    GuardedLaunch { launch, guarded, remove_at_end: None }
}

/// Starts `launch` with its guardian.
pub(crate) fn spawn(launch: &GuardedLaunch) -> io::Result<Child> {
    spawn_with(launch, Path::new(SHELL))
}

fn spawn_with(launch: &GuardedLaunch, shell: &Path) -> io::Result<Child> {
    let mut guardian = match launch.guarded {
        true => Guardian::spawn(shell, &launch.tag, launch.remove_at_end.as_deref())?,
        false => None,
    };
    Child::spawn(launch, &mut guardian)
}

/// Starts `launch`, and waits for the first line of output.
pub(crate) async fn started(launch: &GuardedLaunch) -> (Child, String) {
    let mut child = spawn(launch).unwrap();
    let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("the script writes a line");
    (child, line)
}

fn was_reaped(pid: u32) -> bool {
    end_of(pid).err() == Some(Errno::CHILD)
}

fn is_running(pid: u32) -> bool {
    end_of(pid).is_ok_and(|end| end.is_none())
}

/// Polls without reaping.
fn end_of(pid: u32) -> rustix::io::Result<Option<WaitIdStatus>> {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), how)
}

#[cfg(target_os = "linux")]
fn count_tagged(tag: &str) -> usize {
    crate::descendants::tagged_processes::all(tag).len()
}

#[cfg(target_os = "linux")]
fn wait_until_none_runs(tag: &str) {
    let since = std::time::Instant::now();
    while count_tagged(tag) > 0 {
        assert!(since.elapsed() < TEST_TIMEOUT, "processes of the launch still run");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn child_output_and_exit_status_are_reported() {
    for guarded in [false, true] {
        let mut child = spawn(&launch("echo out; echo err >&2; exit 3", guarded)).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        child.take_stdout().unwrap().read_to_string(&mut out).await.unwrap();
        child.take_stderr().unwrap().read_to_string(&mut err).await.unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
        assert_eq!(child.wait().await.code(), Some(3));
        assert_eq!(child.wait().await.code(), Some(3));
        let pid = child.pid();
        assert_eq!(child.stop(TEST_TIMEOUT).await.status.code(), Some(3));
        assert!(was_reaped(pid));
    }
}

#[tokio::test]
async fn stopped_child_leaves_no_processes() {
    for guarded in [false, true] {
        let launch = launch("sleep 1000 & echo ready; wait", guarded);
        let (child, _) = started(&launch).await;
        let pids = [Some(child.pid()), child.guardian_pid()];
        assert_eq!(child.stop(TEST_TIMEOUT).await.status.signal(), Some(libc::SIGTERM));
        assert!(pids.into_iter().flatten().all(was_reaped));
        #[cfg(target_os = "linux")]
        assert_eq!(count_tagged(&launch.tag), 0);
    }
}

#[tokio::test]
async fn child_that_handles_sigterm_reports_its_status() {
    let launch = launch("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done", true);
    let (child, _) = started(&launch).await;
    assert_eq!(child.stop(TEST_TIMEOUT).await.status.code(), Some(7));
}

#[tokio::test]
async fn child_that_ignores_sigterm_is_killed() {
    let launch = launch("trap '' TERM; echo ready; while :; do sleep 1000; done", true);
    let (child, _) = started(&launch).await;
    assert_eq!(child.stop(Duration::ZERO).await.status.signal(), Some(libc::SIGKILL));
}

#[tokio::test]
async fn guardian_survives_sigterm_to_its_group() {
    let launch = launch("trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done", true);
    let mut child = spawn(&launch).unwrap();
    let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("ready"));
    while !child.guardian_ignores_signals() {
        std::thread::yield_now();
    }
    child.terminate();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("asked"));
    let guardian = child.guardian_pid().unwrap();
    let group = rustix::process::getpgid(Pid::from_raw(child.pid().cast_signed())).unwrap();
    assert_eq!(group.as_raw_nonzero().get().cast_unsigned(), guardian);
    assert!(is_running(guardian));
    child.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn guardian_that_just_started_survives_sigterm() {
    for _ in 0..20 {
        let mut child = spawn(&launch("exec sleep 1000", true)).unwrap();
        child.terminate();
        assert_eq!(child.wait().await.signal(), Some(libc::SIGTERM));
        while !child.guardian_ignores_signals() {
            assert!(is_running(child.guardian_pid().unwrap()));
        }
        assert!(is_running(child.guardian_pid().unwrap()));
        child.stop(TEST_TIMEOUT).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn descendants_outside_the_group_or_ignoring_sigterm_are_killed() {
    let scripts = [
        "sh -c \"trap '' TERM; echo ready; while :; do sleep 1000; done\" & wait",
        "setsid sh -c 'echo ready; exec sleep 1000' & wait",
        "setsid sh -c 'setsid sh -c \"echo ready; exec sleep 1000\" & exec sleep 1000' & exit 0",
    ];
    for (script, guarded) in scripts.iter().flat_map(|script| [(script, false), (script, true)]) {
        let launch = launch(script, guarded);
        let (child, _) = started(&launch).await;
        assert!(count_tagged(&launch.tag) > 0, "{script}");
        child.stop(Duration::ZERO).await;
        assert_eq!(count_tagged(&launch.tag), 0, "{script}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn descendants_are_killed_after_child_crashed() {
    for guarded in [false, true] {
        let launch = launch("sleep 1000 & setsid sleep 1000 & echo ready; kill -KILL $$", guarded);
        let (mut child, _) = started(&launch).await;
        assert_eq!(child.wait().await.signal(), Some(libc::SIGKILL));
        child.stop(TEST_TIMEOUT).await;
        assert_eq!(count_tagged(&launch.tag), 0);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn dropped_child_is_killed_and_reaped() {
    for guarded in [false, true] {
        let launch = launch("setsid sleep 1000 & echo ready; wait", guarded);
        let (child, _) = started(&launch).await;
        let pids: Vec<_> =
            [Some(child.pid()), child.guardian_pid()].into_iter().flatten().collect();
        drop(child);
        let since = std::time::Instant::now();
        while count_tagged(&launch.tag) > 0 || !pids.iter().all(|pid| was_reaped(*pid)) {
            assert!(since.elapsed() < TEST_TIMEOUT, "processes of the launch still run");
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn child_that_outlives_its_runtime_is_killed_and_reaped() {
    for guarded in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let launch = launch("sleep 1000 & echo ready; wait", guarded);
        let (child, _) = runtime.block_on(started(&launch));
        let pids: Vec<_> =
            [Some(child.pid()), child.guardian_pid()].into_iter().flatten().collect();
        drop(runtime);
        drop(child);
        assert!(pids.into_iter().all(was_reaped));
        #[cfg(target_os = "linux")]
        wait_until_none_runs(&launch.tag);
    }
}

#[tokio::test]
async fn child_without_guardian_leads_its_own_group() {
    let launch = launch("echo ready; exec sleep 1000", true);
    let child = spawn_with(&launch, Path::new("/nonexistent/sh")).unwrap();
    assert_eq!(child.guardian_pid(), None);
    let pid = child.pid();
    assert_eq!(child.stop(TEST_TIMEOUT).await.status.signal(), Some(libc::SIGTERM));
    assert!(was_reaped(pid));
}

#[tokio::test]
async fn missing_program_fails_with_not_found() {
    let mut launch = launch("", true);
    launch.program = PathBuf::from("/nonexistent/program");
    let error = spawn(&launch).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn program_held_open_for_writing_is_reported_as_busy() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mut launch = launch("", false);
    launch.program = folder.path().join("program");
    std::fs::copy("/bin/sh", &launch.program).unwrap();
    std::fs::set_permissions(&launch.program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let written = std::fs::OpenOptions::new().append(true).open(&launch.program).unwrap();
    let error = spawn(&launch).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::ExecutableFileBusy);
    drop(written);
}

#[tokio::test]
async fn child_has_its_limits_and_default_signals() {
    let mut launch = launch("ulimit -n; ulimit -c; ulimit -t; ulimit -d; kill -TERM $$", true);
    launch.limits = ChildLimits {
        memory_bytes: Some(512 << 20),
        descriptors: Some(50),
        cpu_s: Some(30),
        ..ChildLimits::default()
    };
    match run_to_end(&launch, TEST_TIMEOUT, 1 << 20).await {
        RunToEnd::Exited { status, stdout, .. } => {
            assert_eq!(String::from_utf8(stdout).unwrap(), "50\n0\n30\n524288\n");
            assert_eq!(status.signal(), Some(libc::SIGTERM));
        }
        _ => panic!("the program exits"),
    }
}

#[tokio::test]
async fn limits_above_the_hosts_own_are_clamped() {
    let mut launch = launch("ulimit -Hn", true);
    launch.limits.descriptors = Some(u64::MAX - 1);
    let RunToEnd::Exited { stdout, .. } = run_to_end(&launch, TEST_TIMEOUT, 1 << 20).await else {
        panic!("the program exits")
    };
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let own = own.map_or("unlimited".to_owned(), |own| own.to_string());
    assert_eq!(String::from_utf8(stdout).unwrap().trim(), own);
}

#[tokio::test]
async fn child_gets_exactly_its_environment_and_the_launch_tag() {
    let mut launch = launch("", true);
    launch.program = PathBuf::from("/usr/bin/env");
    launch.args.clear();
    launch.environment = vec![("LANG".into(), "C".into()), ("HOTBAY_LAUNCH".into(), "x".into())];
    let RunToEnd::Exited { stdout, .. } = run_to_end(&launch, TEST_TIMEOUT, 1 << 20).await else {
        panic!("the program exits")
    };
    let stdout = String::from_utf8(stdout).unwrap();
    let mut lines: Vec<_> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [format!("HOTBAY_LAUNCH={}", launch.tag).as_str(), "LANG=C"]);
}

const MAX_BYTES: usize = 1 << 20;

#[tokio::test]
async fn output_is_read_and_both_ends_of_stderr_are_kept() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo \"line $i\" >&2; i=$((i + 1)); done; \
                  echo last >&2; printf '{}'; exit 2";
    match run_to_end(&launch(script, true), TEST_TIMEOUT, MAX_BYTES).await {
        RunToEnd::Exited { status, stdout, stderr } => {
            assert_eq!((status.code(), stdout.as_slice()), (Some(2), b"{}".as_slice()));
            assert_eq!(stderr.len(), 10 << 10);
            assert!(stderr.starts_with(b"line 0\nline 1\n"));
            assert!(stderr.ends_with(b"line 1999\nlast\n"));
        }
        _ => panic!("the program exits"),
    }
}

#[tokio::test]
async fn descendant_that_holds_the_pipes_is_killed_without_delay() {
    for script in ["sleep 1000 & echo out", "setsid sleep 1000 & echo out"] {
        let launch = launch(script, false);
        match run_to_end(&launch, TEST_TIMEOUT, MAX_BYTES).await {
            RunToEnd::Exited { status, stdout, .. } => {
                assert!(status.success());
                assert_eq!(stdout, b"out\n");
            }
            _ => panic!("the program exits"),
        }
        // Killed in the background, by a task of this runtime.
        #[cfg(target_os = "linux")]
        {
            let since = std::time::Instant::now();
            while !crate::descendants::tagged_processes::all(&launch.tag).is_empty() {
                assert!(since.elapsed() < TEST_TIMEOUT, "processes of the launch still run");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn program_that_does_not_exit_is_killed() {
    let launch = launch("trap '' TERM; while :; do sleep 1000; done", false);
    let end = run_to_end(&launch, Duration::from_millis(1), MAX_BYTES).await;
    assert!(matches!(end, RunToEnd::TimedOut { .. }));
    #[cfg(target_os = "linux")]
    assert!(crate::descendants::tagged_processes::all(&launch.tag).is_empty());
}

#[tokio::test]
async fn program_that_writes_endlessly_is_killed() {
    for script in ["while :; do echo y; done", "while :; do echo y >&2; done"] {
        let end = run_to_end(&launch(script, false), TEST_TIMEOUT, 50_000).await;
        assert!(matches!(end, RunToEnd::TooMuchOutput { .. }), "{script}");
    }
}

#[tokio::test]
async fn missing_program_is_not_started() {
    let mut launch = launch("", false);
    launch.program = PathBuf::from("/nonexistent/program");
    match run_to_end(&launch, TEST_TIMEOUT, MAX_BYTES).await {
        RunToEnd::NotStarted(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        _ => panic!("the program cannot be started"),
    }
}
