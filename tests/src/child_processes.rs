//! Child processes that may crash or take long: started, read to their end, and killed if they take
//! too long. Among them is cargo, for builds that need other settings than the fixtures.

#![allow(clippy::disallowed_methods, reason = "tests start cargo and compilers")]

use std::env;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::artifacts::is_of_this_package;

/// Limit for a child; some compile a hundred crates.
const LIMIT: Duration = Duration::from_secs(900);

/// The exit status and output of a child.
#[derive(Debug)]
pub struct ChildOutput {
    status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl ChildOutput {
    /// Returns its exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Returns the signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Runs cargo in this workspace, offline, optionally with another toolchain. Builds go to a
/// separate folder in the target folder.
///
/// # Panics
///
/// Panics if cargo does not start or does not exit.
pub fn cargo(toolchain: Option<&str>, folder: &str, arguments: &[&str]) -> ChildOutput {
    let mut command = match toolchain {
        Some(toolchain) => {
            let mut command = Command::new("rustup");
            command.args(["run", toolchain, "cargo"]);
            command.env_remove("RUSTUP_TOOLCHAIN");
            command
        }
        None => {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            Command::new(cargo)
        }
    };
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_this_package(name)) {
        command.env_remove(name);
    }
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(arguments).args(["--offline", "--message-format=json"]);
    command.arg("--target-dir").arg(target_dir().join(folder));
    run_to_end(&mut command)
}

/// Returns the output of `rustc --version` of a toolchain; `None` if it is not installed.
pub fn compiler(toolchain: &str) -> Option<String> {
    let mut command = Command::new("rustup");
    let command = command.args(["run", toolchain, "rustc", "--version"]);
    let output = command.output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !version.is_empty()).then_some(version)
}

/// Returns the library in cargo's messages.
///
/// # Panics
///
/// Panics if cargo built none.
pub fn library_of(built: &ChildOutput) -> PathBuf {
    let file = messages(built)
        .filter(|message| message["target"]["kind"][0] == "cdylib")
        .filter_map(|message| message["filenames"][0].as_str().map(PathBuf::from))
        .next_back();
    file.unwrap_or_else(|| panic!("cargo built no library: {}", built.stderr))
}

/// Returns cargo's messages.
pub fn messages(built: &ChildOutput) -> impl DoubleEndedIterator<Item = Value> {
    built.stdout.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// Finds the target folder, which cargo marks with a file of this name.
fn target_dir() -> PathBuf {
    let program = env::current_exe().expect("the path of the test binary");
    let marked = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    let folder = program.ancestors().find(marked);
    folder.expect("tests are built in the target folder").to_owned()
}

/// Runs a command without input to its end.
///
/// # Panics
///
/// Panics if it does not start or does not end.
pub fn run_to_end(command: &mut Command) -> ChildOutput {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?} failed to start: {error}"));
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    // A pipe ends when no process is left that could write to it.
    let [stdout, stderr] = [stdout, stderr].map(|pipe| match pipe.recv_timeout(LIMIT) {
        Ok(text) => text,
        Err(_) => end(&mut child, command),
    });
    let status = child.wait().expect("a child of this process");
    ChildOutput { status, stdout, stderr }
}

fn end(child: &mut Child, command: &Command) -> ! {
    let _ = child.kill();
    let _ = child.wait();
    panic!("{command:?} did not end within {LIMIT:?}");
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    let mut pipe = pipe.expect("the pipe is configured");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Output before an error is still useful.
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
