//! Child processes for tests that may crash: started, read to their end, and killed if they take
//! too long.

#![allow(clippy::disallowed_methods, reason = "tests start the naive host, cargo and themselves")]

use std::env;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// Limit for a child; some compile a hundred crates.
const LIMIT: Duration = Duration::from_secs(900);

/// Set in a subprocess that runs a single test again.
const ALONE: &str = "HOTBAY_TESTS_ALONE";

/// The exit status and output of a child.
#[derive(Debug)]
pub(super) struct ChildOutput {
    status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl ChildOutput {
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(super) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Runs the naive host.
pub(super) fn naive(arguments: &[&Path]) -> ChildOutput {
    let program = hotbay_tests::binary("hotbay-naive", "naive");
    run(Command::new(program).args(arguments).env("RUST_BACKTRACE", "1"))
}

/// Runs a test again in a subprocess with an environment variable set; returns `None` in that
/// subprocess.
pub(super) fn run_in_subprocess(test: &str, variable: (&str, &str)) -> Option<ChildOutput> {
    if env::var_os(ALONE).is_some() {
        return None;
    }
    // The test harness omits the crate from test names.
    let (_, test) = test.split_once("::").expect("a module path");
    let program = env::current_exe().expect("the path of the test binary");
    let arguments = ["--exact", test, "--nocapture", "--test-threads=1"];
    let mut command = Command::new(program);
    command.args(arguments).env(ALONE, "1").env(variable.0, variable.1);
    Some(run(&mut command))
}

/// Runs cargo in this workspace, offline, optionally with another toolchain. Builds go to a
/// separate folder in the target folder.
pub(super) fn cargo(toolchain: Option<&str>, folder: &str, arguments: &[&str]) -> ChildOutput {
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
    let of_cargo = |name: &str| {
        let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
            || ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC", "RUSTDOC"].contains(&name)
    };
    for (name, _) in env::vars_os().filter(|(name, _)| of_cargo(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(arguments).args(["--offline", "--message-format=json"]);
    command.arg("--target-dir").arg(target_dir().join(folder));
    run(&mut command)
}

/// Returns the output of `rustc --version` of a toolchain; `None` if it is not installed.
pub(super) fn compiler(toolchain: &str) -> Option<String> {
    let mut command = Command::new("rustup");
    let command = command.args(["run", toolchain, "rustc", "--version"]);
    let output = command.output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !version.is_empty()).then_some(version)
}

/// Returns the library in cargo's messages.
pub(super) fn library_of(built: &ChildOutput) -> PathBuf {
    let file = messages(built)
        .filter(|message| message["target"]["kind"][0] == "cdylib")
        .filter_map(|message| message["filenames"][0].as_str().map(PathBuf::from))
        .next_back();
    file.unwrap_or_else(|| panic!("cargo built no library: {}", built.stderr))
}

/// Returns cargo's messages.
pub(super) fn messages(built: &ChildOutput) -> impl DoubleEndedIterator<Item = Value> {
    built.stdout.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// Finds the target folder, which cargo marks with a file of this name.
fn target_dir() -> PathBuf {
    let program = env::current_exe().expect("the path of the test binary");
    let marked = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file();
    let folder = program.ancestors().find(marked);
    folder.expect("tests are built in the target folder").to_owned()
}

fn run(command: &mut Command) -> ChildOutput {
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
