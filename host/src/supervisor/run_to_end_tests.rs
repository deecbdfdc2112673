//! Real programs that answer and end, or do not.

use std::path::PathBuf;
use std::time::Duration;

use super::child_tests::{TEST_TIMEOUT, launch};
use super::run_to_end::{RunToEnd, run_to_end};

const BYTES_MAX: usize = 1 << 20;

#[tokio::test]
async fn what_a_program_wrote_is_there_and_of_its_stderr_both_ends() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo \"line $i\" >&2; i=$((i + 1)); done; \
                  echo last >&2; printf '{}'; exit 2";
    match run_to_end(&launch(script, true), TEST_TIMEOUT, BYTES_MAX).await {
        RunToEnd::Ended { status, stdout, stderr } => {
            assert_eq!((status.code(), stdout.as_slice()), (Some(2), b"{}".as_slice()));
            assert_eq!(stderr.len(), 10 << 10);
            assert!(stderr.starts_with(b"line 0\nline 1\n"));
            assert!(stderr.ends_with(b"line 1999\nlast\n"));
        }
        _ => panic!("it ends"),
    }
}

#[tokio::test]
async fn a_process_left_behind_that_holds_the_pipes_delays_nothing_and_is_ended() {
    for script in ["sleep 1000 & echo out", "setsid sleep 1000 & echo out"] {
        let launch = launch(script, false);
        match run_to_end(&launch, TEST_TIMEOUT, BYTES_MAX).await {
            RunToEnd::Ended { status, stdout, .. } => {
                assert!(status.success());
                assert_eq!(stdout, b"out\n");
            }
            _ => panic!("it ends"),
        }
        // Ended meanwhile, by a task of this runtime.
        #[cfg(target_os = "linux")]
        {
            let since = std::time::Instant::now();
            while !super::launch_tag::tagged_processes::all(&launch.tag).is_empty() {
                assert!(since.elapsed() < TEST_TIMEOUT, "processes of the launch are left");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_program_that_does_not_end_is_ended() {
    let launch = launch("trap '' TERM; while :; do sleep 1000; done", false);
    let end = run_to_end(&launch, Duration::from_millis(1), BYTES_MAX).await;
    assert!(matches!(end, RunToEnd::TimedOut { .. }));
    #[cfg(target_os = "linux")]
    assert!(super::launch_tag::tagged_processes::all(&launch.tag).is_empty());
}

#[tokio::test]
async fn a_program_that_writes_without_end_is_ended() {
    for script in ["while :; do echo y; done", "while :; do echo y >&2; done"] {
        let end = run_to_end(&launch(script, false), TEST_TIMEOUT, 50_000).await;
        assert!(matches!(end, RunToEnd::TooMuch { .. }), "{script}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_not_started() {
    let mut launch = launch("", false);
    launch.program = PathBuf::from("/nonexistent/program");
    match run_to_end(&launch, TEST_TIMEOUT, BYTES_MAX).await {
        RunToEnd::NotStarted(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        _ => panic!("it cannot be started"),
    }
}
