//! Tests of programs that print and exit, or do not.

use std::path::PathBuf;
use std::time::Duration;

use super::child_tests::{TEST_TIMEOUT, launch};
use super::run_to_end::{RunToEnd, run_to_end};

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
            while !super::launch_tag::tagged_processes::all(&launch.tag).is_empty() {
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
    assert!(super::launch_tag::tagged_processes::all(&launch.tag).is_empty());
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
