//! This program once more, in a process of its own, for what could end the process.
//! Bounded in time and in what it may say.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use serde_json::Value;

use crate::args::Options;

/// How long a child may take before it is killed.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long its last words may take to arrive after it has ended.
const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(1);
/// Bytes kept of each of its outputs: the last ones.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Bytes of its stderr that are told.
const TOLD_BYTES_MAX: usize = 400;

/// How a child ended.
pub(crate) enum Ended {
    /// It gave an answer, the last line of its stdout.
    Answered(Value),
    /// It died, was killed or said nothing; in words.
    Died(String),
}

/// Has a child carry out the hidden verb `verb` on the plugin in `folder`.
pub(crate) fn run(
    verb: &str,
    folder: &Path,
    others: &[PathBuf],
    options: &Options,
) -> io::Result<Ended> {
    #[allow(
        clippy::disallowed_methods,
        reason = "a library that may crash is opened in a process of its own"
    )]
    let mut command = Command::new(env::current_exe()?);
    command.arg(verb);
    for other in others {
        command.arg("--dir").arg(other);
    }
    if options.allow_writable {
        command.arg("--allow-writable");
    }
    command.arg("--").arg(folder);
    // What a child that dies leaves behind goes with this folder.
    let scratch = tempfile::Builder::new().prefix("hotbay-trial-").tempdir()?;
    for variable in ["TMPDIR", "TMP", "TEMP"] {
        command.env(variable, scratch.path());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdout, stderr) = (tail(child.stdout.take()), tail(child.stderr.take()));
    let status = wait(&mut child)?;
    let last_words = |from: Receiver<Vec<u8>>| {
        let bytes = from.recv_timeout(LAST_WORDS_WAIT_MAX).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (last_words(stdout), last_words(stderr));
    let Some(status) = status else {
        let message = format!("did not end within {} s and was killed", WAIT_MAX.as_secs());
        return Ok(Ended::Died(message));
    };
    let answer = stdout.lines().next_back().map(serde_json::from_str);
    match answer {
        Some(Ok(answer)) if signal(status).is_none() => Ok(Ended::Answered(answer)),
        _ => Ok(Ended::Died(died(status, &stderr))),
    }
}

/// Waits for the end; none if it did not come in time and the child was killed.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + WAIT_MAX;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Reads to the end and hands over the last bytes.
///
/// On a thread that is not waited for: a grandchild may hold the pipe open.
fn tail(from: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0; 8192];
        let mut from = from;
        while let Some(read) = from.as_mut().and_then(|from| from.read(&mut buffer).ok()) {
            if read == 0 {
                break;
            }
            kept.extend_from_slice(&buffer[..read]);
            let surplus = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
            if surplus >= OUTPUT_BYTES_MAX {
                kept.drain(..surplus);
            }
        }
        // Nobody may be waiting any more.
        let _ = sender.send(kept);
    });
    receiver
}

fn died(status: ExitStatus, stderr: &str) -> String {
    let how = match (signal(status), status.code()) {
        (Some(signal), _) => format!("crashes when loaded: {signal}"),
        (None, Some(code)) => format!("ends the process when loaded: exit code {code}"),
        (None, None) => "ends the process when loaded".to_owned(),
    };
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    match last {
        Some(line) => {
            let line: String = line.chars().take(TOLD_BYTES_MAX).collect();
            format!("{how}; its last words: {line}")
        }
        None => how,
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<String> {
    use std::os::unix::process::ExitStatusExt as _;
    let number = status.signal()?;
    let name = match number {
        libc::SIGABRT => "SIGABRT",
        libc::SIGALRM => "SIGALRM",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGHUP => "SIGHUP",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGXCPU => "SIGXCPU",
        _ => return Some(format!("signal {number}")),
    };
    Some(name.to_owned())
}

#[cfg(not(unix))]
fn signal(_status: ExitStatus) -> Option<String> {
    None
}
