//! A host that is killed leaves no processes. The host is this test program, started again.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use super::{FOLDER_VARIABLE, SHELL, TAG_VARIABLE};
use crate::child::tests::{TEST_TIMEOUT, launch, spawn, started};
use crate::descendants::{KillOnDrop, tagged_processes};
use crate::guardian;
use crate::launch::LaunchFolder;
use crate::launch::tests::own_nothing;

/// Marks the program as the host of the test below, and names the parent of its folders.
const HOST_VARIABLE: &str = "TEST_HOST_TO_BE_KILLED";

/// Number of guardians that this host kills before it reports that it is ready.
const KILL_GUARDIAN_VARIABLE: &str = "TEST_KILL_GUARDIANS";

/// Starts processes in the group without the tag, and outside it with the tag; some ignore signals,
/// some are in their own sessions.
const SCRIPT: &str = "\
    env -i PATH=\"$PATH\" sh -c \"trap '' TERM HUP; while :; do sleep 1000; done\" & \
    export UNTAGGED=$!; \
    setsid sh -c 'sleep 1000 & exec sleep 1000' & \
    setsid setsid sh -c 'trap \"\" TERM; echo $UNTAGGED; while :; do sleep 1000; done' & \
    wait";

#[tokio::test]
async fn killed_host_leaves_no_processes() {
    check_killed_host(&[]).await;
}

#[tokio::test]
async fn guardian_of_host_with_empty_path_kills_all() {
    check_killed_host(&[("PATH", "")]).await;
}

#[tokio::test]
async fn guardian_that_replaced_a_killed_one_kills_all() {
    check_killed_host(&[(KILL_GUARDIAN_VARIABLE, "2"), ("PATH", "")]).await;
}

async fn check_killed_host(environment: &[(&str, &str)]) {
    let parent = tempfile::tempdir().unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "guardian::tests::host_to_be_killed", "--nocapture"])
        .env(HOST_VARIABLE, parent.path())
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let guarded = KillOnDrop(value_of(&mut lines, "guarded").await);
    let guardian: i32 = value_of(&mut lines, "guardian").await.parse().unwrap();
    let untagged: i32 = value_of(&mut lines, "untagged").await.parse().unwrap();
    let folder = PathBuf::from(value_of(&mut lines, "folder").await);
    let unguarded = KillOnDrop(value_of(&mut lines, "unguarded").await);
    assert!(folder.exists() && is_running(guardian) && is_running(untagged));
    assert!(tagged_processes::all(&guarded.0).len() > 2);
    assert!(!tagged_processes::all(&unguarded.0).is_empty());

    host.kill().await.unwrap();
    let since = Instant::now();
    let is_anything_left = || {
        !tagged_processes::all(&guarded.0).is_empty()
            || !tagged_processes::all(&unguarded.0).is_empty()
            || folder.exists()
            || is_running(guardian)
            || is_running(untagged)
    };
    while is_anything_left() {
        assert!(since.elapsed() < TEST_TIMEOUT, "processes or the folder are left");
        tokio::task::yield_now().await;
    }
}

/// Runs the host process of the test above; a no-op unless started by it.
#[tokio::test]
async fn host_to_be_killed() {
    let Some(parent) = std::env::var_os(HOST_VARIABLE) else { return };
    let folder = LaunchFolder::make(Path::new(&parent), own_nothing).unwrap();
    let mut launch_guarded = launch(SCRIPT, true);
    launch_guarded.remove_at_end = Some(folder.path().to_owned());
    std::fs::write(folder.path().join("x.socket"), "x").unwrap();
    let (mut guarded, untagged) = started(&launch_guarded).await;
    let kills = std::env::var(KILL_GUARDIAN_VARIABLE).unwrap_or_default();
    for _ in 0..kills.parse::<u32>().unwrap_or_default() {
        let before = guarded.guardian_pid().unwrap();
        let pid = rustix::process::Pid::from_raw(before.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let since = Instant::now();
        while guarded.guardian_pid() == Some(before) || !guarded.guardian_ignores_signals() {
            assert!(since.elapsed() < TEST_TIMEOUT, "the guardian was not replaced");
            let _ = tokio::time::timeout(Duration::from_millis(10), guarded.wait()).await;
        }
    }
    let launch_unguarded = launch("echo ready; exec sleep 1000", false);
    let (_unguarded, _) = started(&launch_unguarded).await;
    // Terminates the line that the test harness has begun.
    println!();
    println!("guarded {}", launch_guarded.tag);
    println!("guardian {}", guarded.guardian_pid().unwrap());
    println!("untagged {untagged}");
    println!("folder {}", folder.path().display());
    println!("unguarded {}", launch_unguarded.tag);
    std::future::pending::<()>().await;
}

/// Without `grep`, `rm` and `sleep`, the shell does what it can alone.
#[tokio::test]
async fn guardian_without_commands_kills_tagged_processes() {
    let mut tagged = launch("setsid sleep 1000 & echo ready; exec sleep 1000", false);
    tagged.tag = format!("{}-single", tagged.tag);
    let (child, _) = started(&tagged).await;
    let mut guardian = Command::new(SHELL);
    guardian.args(["-c", guardian::SCRIPT]).env_clear().env("PATH", "/nowhere");
    guardian.env(TAG_VARIABLE, &tagged.tag).env(FOLDER_VARIABLE, "");
    guardian.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = guardian.kill_on_drop(true).status().await.unwrap();
    assert!(!status.success(), "it is killed with its group");
    assert!(tagged_processes::all(&tagged.tag).is_empty());
    drop(child);
}

/// Neither the group nor the tag identifies the process, only its parents.
#[tokio::test]
async fn stop_kills_descendants_without_group_and_tag() {
    let script = "setsid sh -c 'echo $$; env -i setsid sh -c \"trap : TERM HUP; sleep 1000\" & \
                  wait' & wait";
    let (child, parent) = started(&launch(script, true)).await;
    let parent: i32 = parent.parse().unwrap();
    let since = Instant::now();
    let below = |pid: i32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse::<i32>().ok()
    };
    // The one that has executed its last program has a child itself.
    let escaped = loop {
        if let Some(escaped) = below(parent).filter(|pid| below(*pid).is_some()) {
            break escaped;
        }
        assert!(since.elapsed() < TEST_TIMEOUT, "the process did not start");
        tokio::task::yield_now().await;
    };
    child.stop(Duration::ZERO).await;
    while is_running(escaped) {
        assert!(since.elapsed() < TEST_TIMEOUT, "the process still runs");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn group_id_of_exited_child_is_not_reused() {
    let mut child = spawn(&launch("exit 0", true)).unwrap();
    child.wait().await;
    let group = child.guardian_pid().unwrap();
    assert!(is_running(group.cast_signed()), "its leader holds the id");
    child.stop(TEST_TIMEOUT).await;
}

/// Marks the program as the host of the test below.
const SUBREAPER_VARIABLE: &str = "TEST_HOST_THAT_ADOPTS";

#[tokio::test]
async fn subreaper_host_reaps_orphans_of_plugins_only() {
    let host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "guardian::tests::subreaper_host", "--nocapture"])
        .env(SUBREAPER_VARIABLE, "1")
        .kill_on_drop(true)
        .output();
    let output = host.await.unwrap();
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    let output_texts = [stdout, stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(
        output.status.success() && output_texts[0].contains("all were reaped"),
        "{output_texts:?}"
    );
}

/// Runs the host process of the test above; a no-op unless started by it.
#[test]
fn subreaper_host() {
    if std::env::var_os(SUBREAPER_VARIABLE).is_none() {
        return;
    }
    // Only in the process started by the test above.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let processes = crate::runtime::Processes::default();
    let runtime = processes.runtime(|_, _| {}).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the application's own child, not a plugin's")]
    let mut own = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
    // In the group, in its own session, and without the tag in a session below that.
    let script = "sh -c 'sleep 3 & setsid sleep 3 & setsid sh -c \"env -i setsid sleep 4 & \
                  sleep 3\" & exit' ; echo $$; exec sleep 1000";
    let (child, pid) = runtime
        .block_on(runtime.spawn(async move { started(&launch(script, true)).await }))
        .unwrap();
    let pid: i32 = pid.parse().unwrap();
    let own_id = std::process::id().to_string();
    let children = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let is_child = |process: &std::fs::DirEntry| {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').nth(1));
            fields == Some(Some(own_id.as_str()))
        };
        all.filter(is_child).count()
    };
    let since = Instant::now();
    let wait_until = |expected: &dyn Fn(usize) -> bool| {
        while !expected(children()) {
            assert!(since.elapsed() < TEST_TIMEOUT, "{} children exist", children());
            std::thread::yield_now();
        }
    };
    wait_until(&|count| count >= 5);
    // The application's child, the plugin's process and its guardian.
    wait_until(&|count| count == 3);
    assert_eq!(own.wait().unwrap().code(), Some(7), "the application's child is not reaped");
    assert!(is_running(pid));
    runtime.block_on(child.stop(TEST_TIMEOUT));
    wait_until(&|count| count == 0);
    println!("all were reaped");
}

async fn value_of(lines: &mut Lines<BufReader<ChildStdout>>, name: &str) -> String {
    loop {
        let line = lines.next_line().await.expect("the pipe is readable");
        let line = line.expect("the host prints what it started");
        if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')) {
            return value.to_owned();
        }
    }
}

/// Returns whether the process exists and is not a zombie.
fn is_running(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}
