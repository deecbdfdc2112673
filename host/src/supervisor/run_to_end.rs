//! Runs a program that prints and exits, such as `<program> capabilities`: with limits of time and
//! output, and without leaving processes.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};

use super::child::{Child, Launch};

/// The part of stderr that is kept: its beginning and its end.
const MAX_STDERR_BYTES: usize = 10 << 10;
const MAX_STDERR_FIRST_BYTES: usize = 2 << 10;
/// Descendants may hold its pipes open forever.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 8 << 10;

/// The outcome of such a run.
pub(crate) enum RunToEnd {
    /// It exited by itself.
    Exited { status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8> },
    /// It did not exit in time.
    TimedOut { stderr: Vec<u8> },
    /// It exceeded the output limit.
    TooMuchOutput { stderr: Vec<u8> },
    /// It was not started.
    NotStarted(io::Error),
}

/// Runs a program for at most `timeout`, reads at most `max_bytes` of each pipe, and keeps the
/// first 2 and the last 8 KiB of its stderr. It gets no guardian.
pub(crate) async fn run_to_end(launch: &Launch, timeout: Duration, max_bytes: usize) -> RunToEnd {
    let until = Instant::now() + timeout;
    let mut child = match Child::spawn_with_retries(launch, Child::spawn_unguarded).await {
        Ok(child) => child,
        Err(error) => return RunToEnd::NotStarted(error),
    };
    let mut captured = CapturedOutput { stdout: Vec::new(), stderr: Vec::new() };
    let outcome = read(&mut child, &mut captured, until, max_bytes).await;
    match outcome {
        // Its descendants are killed in the background.
        Outcome::Exited(_) => drop(child),
        Outcome::TimedOut | Outcome::TooMuchOutput => {
            let _ = child.stop(Duration::ZERO).await;
        }
    }
    let CapturedOutput { stdout, stderr } = captured;
    match outcome {
        Outcome::Exited(status) => RunToEnd::Exited { status, stdout, stderr },
        Outcome::TimedOut => RunToEnd::TimedOut { stderr },
        Outcome::TooMuchOutput => RunToEnd::TooMuchOutput { stderr },
    }
}

struct CapturedOutput {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

enum Outcome {
    Exited(ExitStatus),
    TimedOut,
    TooMuchOutput,
}

async fn read(
    child: &mut Child,
    captured: &mut CapturedOutput,
    mut until: Instant,
    max_bytes: usize,
) -> Outcome {
    let mut stdout = child.take_stdout();
    let mut stderr = child.take_stderr();
    let mut stdout_chunk = vec![0; CHUNK_BYTES];
    let mut stderr_chunk = vec![0; CHUNK_BYTES];
    let mut stderr_bytes = 0;
    let mut exited = None;
    while stdout.is_some() || stderr.is_some() || exited.is_none() {
        tokio::select! {
            biased;
            status = child.wait(), if exited.is_none() => {
                exited = Some(status);
                until = Instant::now() + DRAIN_TIMEOUT;
            }
            count = read_some(&mut stdout, &mut stdout_chunk) => {
                if captured.stdout.len() + count > max_bytes {
                    return Outcome::TooMuchOutput;
                }
                captured.stdout.extend(stdout_chunk.iter().take(count));
            }
            count = read_some(&mut stderr, &mut stderr_chunk) => {
                stderr_bytes += count;
                if stderr_bytes > max_bytes {
                    return Outcome::TooMuchOutput;
                }
                captured.stderr.extend(stderr_chunk.iter().take(count));
                let excess = captured.stderr.len().saturating_sub(MAX_STDERR_BYTES);
                let first = MAX_STDERR_FIRST_BYTES.min(captured.stderr.len() - excess);
                captured.stderr.drain(first..first + excess);
            }
            // Last, so that output captured in time is read on a busy machine, too.
            () = sleep_until(until) => break,
        }
    }
    exited.map_or(Outcome::TimedOut, Outcome::Exited)
}

/// Reads available output. Sets the pipe to `None` at its end, and is pending from then on. Cancel
/// safe.
async fn read_some(pipe: &mut Option<impl AsyncRead + Unpin>, chunk: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    let count = open.read(chunk).await.unwrap_or(0);
    if count == 0 {
        *pipe = None;
    }
    count
}
