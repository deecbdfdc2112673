//! Runs a program that answers and ends, as `<program> capabilities` does: bounded in time and in
//! what it writes, and nothing of it is left.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};

use super::child::{Child, Launch};

/// How much of stderr is kept: its beginning and its end.
const STDERR_BYTES_MAX: usize = 10 << 10;
const STDERR_FIRST_BYTES_MAX: usize = 2 << 10;
/// Processes that it left behind may hold its pipes open for ever.
const AFTER_END_WAIT_MAX: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 8 << 10;

/// What became of a program that should answer and end.
pub(crate) enum RunToEnd {
    /// It ended by itself.
    Ended { status: ExitStatus, stdout: Vec<u8>, stderr: Vec<u8> },
    /// It did not end in time.
    TimedOut { stderr: Vec<u8> },
    /// It wrote more than is read.
    TooMuch { stderr: Vec<u8> },
    /// It was not started.
    NotStarted(io::Error),
}

/// Runs a program for at most `wait_max`, reading at most `bytes_max` of each pipe and keeping
/// the first 2 and the last 8 KiB of its stderr. It gets no guardian.
pub(crate) async fn run_to_end(launch: &Launch, wait_max: Duration, bytes_max: usize) -> RunToEnd {
    let until = Instant::now() + wait_max;
    let mut child = match Child::spawn_with_retries(launch, Child::spawn_unguarded).await {
        Ok(child) => child,
        Err(error) => return RunToEnd::NotStarted(error),
    };
    let mut written = Written { stdout: Vec::new(), stderr: Vec::new() };
    let end = read(&mut child, &mut written, until, bytes_max).await;
    match end {
        // What it left behind is ended meanwhile.
        End::Ended(_) => drop(child),
        End::TimedOut | End::TooMuch => {
            let _ = child.stop(Duration::ZERO).await;
        }
    }
    let Written { stdout, stderr } = written;
    match end {
        End::Ended(status) => RunToEnd::Ended { status, stdout, stderr },
        End::TimedOut => RunToEnd::TimedOut { stderr },
        End::TooMuch => RunToEnd::TooMuch { stderr },
    }
}

struct Written {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

enum End {
    Ended(ExitStatus),
    TimedOut,
    TooMuch,
}

async fn read(
    child: &mut Child,
    written: &mut Written,
    mut until: Instant,
    bytes_max: usize,
) -> End {
    let mut stdout = child.take_stdout();
    let mut stderr = child.take_stderr();
    let mut stdout_chunk = vec![0; CHUNK_BYTES];
    let mut stderr_chunk = vec![0; CHUNK_BYTES];
    let mut stderr_bytes = 0;
    let mut ended = None;
    while stdout.is_some() || stderr.is_some() || ended.is_none() {
        tokio::select! {
            biased;
            status = child.wait(), if ended.is_none() => {
                ended = Some(status);
                until = Instant::now() + AFTER_END_WAIT_MAX;
            }
            count = read_some(&mut stdout, &mut stdout_chunk) => {
                if written.stdout.len() + count > bytes_max {
                    return End::TooMuch;
                }
                written.stdout.extend(stdout_chunk.iter().take(count));
            }
            count = read_some(&mut stderr, &mut stderr_chunk) => {
                stderr_bytes += count;
                if stderr_bytes > bytes_max {
                    return End::TooMuch;
                }
                written.stderr.extend(stderr_chunk.iter().take(count));
                let excess = written.stderr.len().saturating_sub(STDERR_BYTES_MAX);
                let first = STDERR_FIRST_BYTES_MAX.min(written.stderr.len() - excess);
                written.stderr.drain(first..first + excess);
            }
            // Last, so that nothing that was written in time stays unread on a busy machine.
            () = sleep_until(until) => break,
        }
    }
    ended.map_or(End::TimedOut, End::Ended)
}

/// Reads what is there; at the end of the pipe it is taken away, and what was closed stays
/// pending. Nothing is lost if the future is dropped.
async fn read_some(pipe: &mut Option<impl AsyncRead + Unpin>, chunk: &mut [u8]) -> usize {
    let Some(open) = pipe else { return std::future::pending().await };
    let count = open.read(chunk).await.unwrap_or(0);
    if count == 0 {
        *pipe = None;
    }
    count
}
