//! Real processes, by `/bin/sh`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::child::{Child, ChildLimits, Launch};
use super::random;
use super::run_to_end::{RunToEnd, run_to_end};

/// Generous: only a failing test waits so long.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn launch(script: &str, guarded: bool) -> Launch {
    Launch {
        program: PathBuf::from("/bin/sh"),
        args: ["-c", script].map(OsString::from).to_vec(),
        folder: PathBuf::from("/"),
        environment: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
        limits: ChildLimits::default(),
        mark: random::token().unwrap(),
        guarded,
        remove_at_end: None,
    }
}

/// Starts `script`, and waits until it has written a line.
async fn started(launch: &Launch) -> (Child, String) {
    let mut child = Child::spawn(launch).unwrap();
    let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("the script writes a line");
    (child, line)
}

fn was_reaped(pid: u32) -> bool {
    let pid = Pid::from_raw(pid.cast_signed());
    waitpid(pid, WaitOptions::NOHANG).err() == Some(Errno::CHILD)
}

#[cfg(target_os = "linux")]
fn carriers(mark: &str) -> usize {
    super::marks::carriers::all(mark).len()
}

#[cfg(target_os = "linux")]
fn wait_until_none_carries(mark: &str) {
    let since = Instant::now();
    while carriers(mark) > 0 {
        assert!(since.elapsed() < WAIT_MAX, "processes of the launch are left");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_a_child_writes_arrives_and_its_end_is_told() {
    for guarded in [false, true] {
        let mut child = Child::spawn(&launch("echo out; echo err >&2; exit 3", guarded)).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        child.take_stdout().unwrap().read_to_string(&mut out).await.unwrap();
        child.take_stderr().unwrap().read_to_string(&mut err).await.unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
        assert_eq!(child.wait().await.code(), Some(3));
        assert_eq!(child.wait().await.code(), Some(3));
        let pid = child.pid();
        assert_eq!(child.stop(WAIT_MAX).await.code(), Some(3));
        assert!(was_reaped(pid));
    }
}
