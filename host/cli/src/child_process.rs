//! Runs this command in a separate process, for work that may crash it. Limits its time and its
//! output.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use hotbay::PluginName;
use serde_json::Value;

use crate::args::Options;
use crate::plugin_dirs::Place;

/// A child is killed after this time.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for the last output to arrive after the exit.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of last bytes kept of stdout, and of stderr.
const MAX_OUTPUT_BYTES: usize = 1 << 20;
/// Maximum number of characters of stderr in a message.
const MAX_STDERR_CHARS: usize = 400;

/// The outcome of a child process.
pub(crate) enum ChildOutcome {
    /// The JSON document on the last line of its stdout.
    Completed(Value),
    /// How it failed: it crashed, was killed, or printed no document.
    Failed(String),
}

/// Runs the hidden verb `verb` on a plugin, which requires the others.
pub(crate) fn run(
    verb: &str,
    (folder, instance): Place<'_>,
    required: &BTreeSet<Place<'_>>,
    options: &Options,
) -> io::Result<ChildOutcome> {
    #[allow(
        clippy::disallowed_methods,
        reason = "a library that may crash is opened in a separate process"
    )]
    let mut command = Command::new(env::current_exe()?);
    command.arg(verb);
    let text =
        |instance: Option<&PluginName>| instance.map_or_else(String::new, |it| it.to_string());
    for (folder, instance) in required {
        command.arg("--required").arg(folder).arg(text(*instance));
    }
    if options.allow_writable {
        command.arg("--allow-writable");
    }
    if let Some(file) = &options.config {
        command.arg("--config").arg(file);
    }
    command.arg("--").arg(folder).arg(text(instance));
    // Removed afterward, with everything that a crashed child leaves in it.
    let scratch = tempfile::Builder::new().prefix("hotbay-trial-").tempdir()?;
    for variable in ["TMPDIR", "TMP", "TEMP"] {
        command.env(variable, scratch.path());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdout, stderr) = (tail(child.stdout.take()), tail(child.stderr.take()));
    let status = wait(&mut child)?;
    let output_of = |from: Receiver<Vec<u8>>| {
        let bytes = from.recv_timeout(OUTPUT_TIMEOUT).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (output_of(stdout), output_of(stderr));
    let Some(status) = status else {
        let message = format!(
            "did not finish within {} s in a separate process, which was killed",
            TIMEOUT.as_secs()
        );
        return Ok(ChildOutcome::Failed(message));
    };
    let document = stdout.lines().next_back().map(serde_json::from_str);
    match document {
        Some(Ok(document)) if signal(status).is_none() => Ok(ChildOutcome::Completed(document)),
        _ => Ok(ChildOutcome::Failed(crash_message(status, &stderr))),
    }
}

/// Waits for the exit. Returns `None` if the child was killed because its time was over.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + TIMEOUT;
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

/// Reads to the end on a separate thread, which sends the last bytes.
///
/// The thread is not joined: a grandchild may hold the pipe open.
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
            let surplus = kept.len().saturating_sub(MAX_OUTPUT_BYTES);
            if surplus >= MAX_OUTPUT_BYTES {
                kept.drain(..surplus);
            }
        }
        // The receiver may have timed out.
        let _ = sender.send(kept);
    });
    receiver
}

fn crash_message(status: ExitStatus, stderr: &str) -> String {
    let how = match (signal(status), status.code()) {
        (Some(signal), _) => format!("crashed in a separate process: {signal}"),
        (None, Some(code)) => format!("exited in a separate process: exit code {code}"),
        (None, None) => "exited in a separate process".to_owned(),
    };
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    match last {
        Some(line) => {
            let line: String = line.chars().take(MAX_STDERR_CHARS).collect();
            format!("{how}; last output: {line}")
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
