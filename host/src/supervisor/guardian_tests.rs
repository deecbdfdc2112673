//! A host that is killed, and what becomes of all that it started. The host is this test's own
//! program, started again.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use super::child::Child;
use super::child_tests::{TEST_TIMEOUT, launch, started};
use super::folder::LaunchFolder;
use super::guardian::{self, FOLDER_VARIABLE, MARK_VARIABLE, SHELL};
use super::launch_tag::LeftBehind;
use super::launch_tag::carriers;

/// Says that the program is the host of the test below, and where to make its folders.
const HOST_VARIABLE: &str = "TEST_HOST_TO_BE_KILLED";

/// How many guardians that host has killed before it says that it is ready.
const KILL_GUARDIAN_VARIABLE: &str = "TEST_KILL_GUARDIANS";

/// In the group without the tag, and out of it with the tag; deaf, and in sessions of their own.
const SCRIPT: &str = "\
    env -i PATH=\"$PATH\" sh -c \"trap '' TERM HUP; while :; do sleep 1000; done\" & \
    export UNMARKED=$!; \
    setsid sh -c 'sleep 1000 & exec sleep 1000' & \
    setsid setsid sh -c 'trap \"\" TERM; echo $UNMARKED; while :; do sleep 1000; done' & \
    wait";

#[tokio::test]
async fn when_a_host_is_killed_nothing_is_left_of_what_it_started() {
    nothing_is_left_of_a_killed_host(&[]).await;
}

#[tokio::test]
async fn guardian_of_host_with_empty_path_leaves_nothing() {
    nothing_is_left_of_a_killed_host(&[("PATH", "")]).await;
}

#[tokio::test]
async fn guardian_that_replaced_a_killed_one_leaves_nothing() {
    nothing_is_left_of_a_killed_host(&[(KILL_GUARDIAN_VARIABLE, "2"), ("PATH", "")]).await;
}

async fn nothing_is_left_of_a_killed_host(environment: &[(&str, &str)]) {
    let parent = tempfile::tempdir().unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "supervisor::guardian_tests::the_host_to_be_killed", "--nocapture"])
        .env(HOST_VARIABLE, parent.path())
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let guarded = LeftBehind(told(&mut lines, "guarded").await);
    let guardian: i32 = told(&mut lines, "guardian").await.parse().unwrap();
    let unmarked: i32 = told(&mut lines, "unmarked").await.parse().unwrap();
    let folder = PathBuf::from(told(&mut lines, "folder").await);
    let unguarded = LeftBehind(told(&mut lines, "unguarded").await);
    assert!(folder.exists() && is_running(guardian) && is_running(unmarked));
    assert!(carriers::all(&guarded.0).len() > 2);
    assert!(!carriers::all(&unguarded.0).is_empty());

    host.kill().await.unwrap();
    let since = Instant::now();
    let is_left = || {
        !carriers::all(&guarded.0).is_empty()
            || !carriers::all(&unguarded.0).is_empty()
            || folder.exists()
            || is_running(guardian)
            || is_running(unmarked)
    };
    while is_left() {
        assert!(since.elapsed() < TEST_TIMEOUT, "something is left");
        tokio::task::yield_now().await;
    }
}

/// Does nothing unless the test above starts it.
#[tokio::test]
async fn the_host_to_be_killed() {
    let Some(parent) = std::env::var_os(HOST_VARIABLE) else { return };
    let folder = LaunchFolder::make(Path::new(&parent)).unwrap();
    let mut launch_guarded = launch(SCRIPT, true);
    launch_guarded.remove_at_end = Some(folder.path().to_owned());
    std::fs::write(folder.path().join("x.socket"), "x").unwrap();
    let (mut guarded, unmarked) = started(&launch_guarded).await;
    let kills = std::env::var(KILL_GUARDIAN_VARIABLE).unwrap_or_default();
    for _ in 0..kills.parse::<u32>().unwrap_or_default() {
        let before = guarded.guardian_pid().unwrap();
        let pid = rustix::process::Pid::from_raw(before.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let since = Instant::now();
        while guarded.guardian_pid() == Some(before) || !guarded.guardian_ignores_signals() {
            assert!(since.elapsed() < TEST_TIMEOUT, "no other guardian has come");
            let _ = tokio::time::timeout(Duration::from_millis(10), guarded.wait()).await;
        }
    }
    let launch_unguarded = launch("echo ready; exec sleep 1000", false);
    let (_unguarded, _) = started(&launch_unguarded).await;
    // The first line ends the one that the test's program begins.
    println!();
    println!("guarded {}", launch_guarded.tag);
    println!("guardian {}", guarded.guardian_pid().unwrap());
    println!("unmarked {unmarked}");
    println!("folder {}", folder.path().display());
    println!("unguarded {}", launch_unguarded.tag);
    std::future::pending::<()>().await;
}

/// With neither `grep` nor `rm` nor `sleep`, the shell does alone what it can.
#[tokio::test]
async fn guardian_without_any_command_ends_what_carries_the_mark() {
    let mut marked = launch("setsid sleep 1000 & echo ready; exec sleep 1000", false);
    marked.tag = format!("{}-alone", marked.tag);
    let (child, _) = started(&marked).await;
    let mut guardian = Command::new(SHELL);
    guardian.args(["-c", guardian::SCRIPT]).env_clear().env("PATH", "/nowhere");
    guardian.env(MARK_VARIABLE, &marked.tag).env(FOLDER_VARIABLE, "");
    guardian.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = guardian.kill_on_drop(true).status().await.unwrap();
    assert!(!status.success(), "it ends with its group");
    assert!(carriers::all(&marked.tag).is_empty());
    drop(child);
}

/// Neither the group nor the tag tells of it, only its parents.
#[tokio::test]
async fn stop_ends_what_left_group_and_environment_while_its_parents_live() {
    let script = "setsid sh -c 'echo $$; env -i setsid sh -c \"trap : TERM HUP; sleep 1000\" & \
                  wait' & wait";
    let (child, parent) = started(&launch(script, true)).await;
    let parent: i32 = parent.parse().unwrap();
    let since = Instant::now();
    let below = |pid: i32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(path).ok()?.split_whitespace().next()?.parse::<i32>().ok()
    };
    // The one that has executed its last program has a child of its own.
    let escaped = loop {
        if let Some(escaped) = below(parent).filter(|pid| below(*pid).is_some()) {
            break escaped;
        }
        assert!(since.elapsed() < TEST_TIMEOUT, "it has not come");
        tokio::task::yield_now().await;
    };
    child.stop(Duration::ZERO).await;
    while is_running(escaped) {
        assert!(since.elapsed() < TEST_TIMEOUT, "it has escaped");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_child_that_ended_cannot_lend_its_group_to_strangers() {
    let mut child = Child::spawn(&launch("exit 0", true)).unwrap();
    child.wait().await;
    let group = child.guardian_pid().unwrap();
    assert!(is_running(group.cast_signed()), "its leader holds the id");
    child.stop(TEST_TIMEOUT).await;
}

/// Says that the program is the host of the test below.
const SUBREAPER_VARIABLE: &str = "TEST_HOST_THAT_ADOPTS";

#[tokio::test]
async fn host_that_adopts_reaps_what_its_plugins_left_and_nothing_else() {
    let host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "supervisor::guardian_tests::the_host_that_adopts", "--nocapture"])
        .env(SUBREAPER_VARIABLE, "1")
        .kill_on_drop(true)
        .output();
    let output = host.await.unwrap();
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    let told = [stdout, stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success() && told[0].contains("all were reaped"), "{told:?}");
}

/// Does nothing unless the test above starts it.
#[test]
fn the_host_that_adopts() {
    if std::env::var_os(SUBREAPER_VARIABLE).is_none() {
        return;
    }
    // Of the process alone that the test above has started.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let processes = super::runtime::Processes::default();
    let runtime = processes.runtime().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the application's own child, not a plugin's")]
    let mut own = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
    // In the group, in a session of its own, and without the tag in a session below that.
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
    let wait_until = |wanted: &dyn Fn(usize) -> bool| {
        while !wanted(children()) {
            assert!(since.elapsed() < TEST_TIMEOUT, "{} children are there", children());
            std::thread::yield_now();
        }
    };
    wait_until(&|count| count >= 5);
    // The application's child, the plugin's process and its guardian.
    wait_until(&|count| count == 3);
    assert_eq!(own.wait().unwrap().code(), Some(7), "its own child is its own");
    assert!(is_running(pid));
    runtime.block_on(child.stop(TEST_TIMEOUT));
    wait_until(&|count| count == 0);
    println!("all were reaped");
}

async fn told(lines: &mut Lines<BufReader<ChildStdout>>, name: &str) -> String {
    loop {
        let line = lines.next_line().await.expect("its pipe can be read");
        let line = line.expect("the host tells what it started");
        if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')) {
            return value.to_owned();
        }
    }
}

/// Whether there is such a process that has not ended.
fn is_running(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}
