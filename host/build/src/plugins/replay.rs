//! Runs a recorded command of the compiler again, without cargo: only the sources of that crate have
//! changed since. It writes to its own folder, so cargo's files stay as cargo left them.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::inputs::Inputs;
use super::record::Recorded;
use crate::cargo;
use crate::cargo::Package;
use crate::print::pass_on;

/// The prefix of the names of folders in cargo's target folder. The id of their process follows.
const FOLDERS: &str = "hotbay-replay-";

/// A command that can be run again.
#[derive(Debug)]
pub(super) struct Replay {
    /// The crate that it compiles.
    pub(super) package: Package,
    recorded: Recorded,
    inputs: Inputs,
    /// Built files, and what the compiler reuses of its last run.
    dir: TempDir,
}

/// The result of a run.
#[derive(Debug)]
pub(super) enum Outcome {
    Built(Built),
    /// The sources have errors, which were printed.
    Invalid(anyhow::Error),
    /// The run says nothing about the sources: cargo has to build them.
    Unknown,
}

/// A library, and how long it took.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) file: PathBuf,
    pub(super) compile: Duration,
    pub(super) link: Duration,
}

/// Whether the messages of the compiler are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    Printed,
    Discarded,
}

impl Replay {
    /// Returns `None` if the command writes to places that cannot be replaced.
    pub(super) fn new(
        recorded: Recorded,
        inputs: Inputs,
        package: Package,
        target_dir: &Path,
    ) -> Option<Self> {
        remove_abandoned(target_dir);
        let prefix = format!("{FOLDERS}{}-", process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(target_dir).ok()?;
        let folder = |name: &str| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).ok()?;
            folder.to_str().map(str::to_owned)
        };
        let (built, incremental) = (folder("built")?, folder("incremental")?);
        let arguments = redirected(&recorded.arguments, &built, &incremental, has_colors())?;
        Some(Self { package, recorded: Recorded { arguments, ..recorded }, inputs, dir })
    }

    /// Returns whether cargo would run the same command.
    pub(super) fn is_current(&self) -> bool {
        self.dir.path().is_dir() && self.inputs.are_unchanged()
    }

    /// Compiles the crate.
    pub(super) fn run(&self, messages: Messages) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let mut command = cargo::compiler(&self.recorded.folder, self.recorded.program.as_os_str());
        command.args(&self.recorded.arguments).env_clear();
        command.envs(self.recorded.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else { return Ok(Outcome::Unknown) };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // The compiler prints the linker's command on stdout, right before it starts the linker.
        let linking = thread::spawn(move || {
            let mut stdout = BufReader::new(stdout?);
            let is_printed = stdout.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
            let now = Instant::now();
            let _ = stdout.read_to_end(&mut Vec::new());
            is_printed.then_some(now)
        });
        let mut report = Report::new(&self.package.name);
        if let Some(stderr) = stderr {
            // Lines, since the source may be quoted in any encoding.
            for line in BufReader::new(stderr).split(b'\n') {
                report.read(&String::from_utf8_lossy(&line.context("cannot read from rustc")?));
            }
        }
        let status = child.wait().context("cannot wait for rustc")?;
        let ended = Instant::now();
        let linking = linking.join().ok().flatten().unwrap_or(ended);
        // A dependency that was replaced meanwhile may be the cause of an error, or in the library.
        if !self.is_current() {
            return Ok(Outcome::Unknown);
        }
        let is_known = match status.code() {
            Some(0) => report.library.is_some(),
            Some(1) => report.errors > 0,
            // Ended by a signal, such as that of Ctrl-C.
            None => true,
            _ => false,
        };
        if is_known && messages == Messages::Printed {
            report.print(status.success());
        }
        match (status.code(), report.library) {
            (Some(0), Some(file)) => Ok(Outcome::Built(Built {
                file,
                compile: linking - started,
                link: ended - linking,
            })),
            (Some(1), _) if report.errors > 0 => {
                let name = &self.package.name;
                Ok(Outcome::Invalid(anyhow!("`rustc` failed to compile `{name}` ({status})")))
            }
            (None, _) => bail!("`rustc` was ended by a signal ({status})"),
            _ => Ok(Outcome::Unknown),
        }
    }
}

/// Removes the folders of processes that were killed. Elsewhere than on Linux they stay until
/// `cargo clean`.
fn remove_abandoned(target_dir: &Path) {
    let processes = Path::new("/proc");
    if !cfg!(target_os = "linux") || !processes.join("self").exists() {
        return;
    }
    for entry in fs::read_dir(target_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(FOLDERS)?.split('-').next());
        if id.is_some_and(|id| id.parse::<u32>().is_ok() && !processes.join(id).exists()) {
            // Another watch may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Returns the arguments with other folders for what the compiler writes.
fn redirected(
    arguments: &[String],
    built: &str,
    incremental: &str,
    colors: bool,
) -> Option<Vec<String>> {
    let mut redirected = Vec::new();
    let mut has_folder = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let is_incremental = argument.starts_with("incremental=");
        match argument.as_str() {
            "--out-dir" => {
                rest.next()?;
                redirected.extend([argument.clone(), built.to_owned()]);
                has_folder = true;
            }
            _ if is_incremental && redirected.last().is_some_and(|last| last == "-C") => {
                redirected.push(format!("incremental={incremental}"));
            }
            _ if argument.starts_with("-Cincremental=") => {
                redirected.push(format!("-Cincremental={incremental}"));
            }
            _ if argument.starts_with("--json=") && !colors => {
                redirected.push(argument.replace("diagnostic-rendered-ansi,", ""));
            }
            // Single files, or arguments in a file.
            "-o" => return None,
            _ if argument.starts_with('@') => return None,
            _ if argument.starts_with("--emit") && argument.matches('=').count() > 1 => {
                return None;
            }
            _ => redirected.push(argument.clone()),
        }
    }
    redirected.extend(["--print", "link-args"].map(str::to_owned));
    has_folder.then_some(redirected)
}

/// Returns whether cargo would print colors.
fn has_colors() -> bool {
    match env::var("CARGO_TERM_COLOR").as_deref() {
        Ok("always") => true,
        Ok("never") => false,
        _ => {
            std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        }
    }
}

/// The messages of one run, printed as cargo prints them.
struct Report<'a> {
    package: &'a str,
    text: String,
    errors: usize,
    warnings: usize,
    library: Option<PathBuf>,
}

impl<'a> Report<'a> {
    fn new(package: &'a str) -> Self {
        Self { package, text: String::new(), errors: 0, warnings: 0, library: None }
    }

    /// Reads a line of the compiler's stderr.
    fn read(&mut self, line: &str) {
        let Ok(Value::Object(value)) = serde_json::from_str(line) else {
            // Printed by a procedural macro, for example.
            self.add(line);
            return;
        };
        if let Some(file) = value.get("artifact").and_then(Value::as_str) {
            if value.get("emit").is_some_and(|emit| emit == "link") {
                self.library = Some(file.into());
            }
            return;
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let summary = text("message");
        // Cargo prints its own summaries.
        if summary.starts_with("aborting due to")
            || summary.ends_with("warning emitted")
            || summary.ends_with("warnings emitted")
        {
            return;
        }
        match text("level") {
            "error" => self.errors += 1,
            "warning" => self.warnings += 1,
            _ => {}
        }
        self.add(text("rendered"));
    }

    fn add(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text);
            if !text.ends_with('\n') {
                self.text.push('\n');
            }
        }
    }

    /// Prints the messages, and cargo's summary of them.
    fn print(&mut self, is_success: bool) {
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let name = self.package;
        let warnings = count(self.warnings, "warning");
        match (is_success, self.errors, self.warnings) {
            (true, _, 0) | (false, 0, _) => {}
            (true, ..) => self.add(&format!("warning: `{name}` (lib) generated {warnings}")),
            (false, errors, warned) => {
                let errors = count(errors, "previous error");
                let more = if warned > 0 { format!("; {warnings} emitted") } else { String::new() };
                self.add(&format!("error: could not compile `{name}` (lib) due to {errors}{more}"));
            }
        }
        pass_on(&self.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_redirected(arguments: &[&str], expected: Option<&[&str]>) {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let found = redirected(&owned(arguments), "/b", "/i", false);
        let print = ["--print", "link-args"];
        assert_eq!(found, expected.map(|expected| owned(&[expected, &print].concat())));
    }

    #[test]
    fn replay_writes_to_its_own_folders() {
        check_redirected(
            &["--out-dir", "/t/deps", "-C", "incremental=/t/i", "--emit=dep-info,link", "a.rs"],
            Some(&["--out-dir", "/b", "-C", "incremental=/i", "--emit=dep-info,link", "a.rs"]),
        );
        check_redirected(
            &["--out-dir", "/t", "-Cincremental=/t/i", "--json=diagnostic-rendered-ansi,artifacts"],
            Some(&["--out-dir", "/b", "-Cincremental=/i", "--json=artifacts"]),
        );
    }

    #[test]
    fn command_that_writes_elsewhere_is_not_replayed() {
        check_redirected(&["a.rs"], None);
        check_redirected(&["--out-dir", "/t", "-o", "x.so"], None);
        check_redirected(&["--out-dir", "/t", "@arguments"], None);
        check_redirected(&["--out-dir", "/t", "--emit=link=/x"], None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn folders_of_killed_processes_are_removed() {
        let target = tempfile::tempdir().unwrap();
        let folder = |id: u32| target.path().join(format!("{FOLDERS}{id}-x"));
        // Ids are below 2^22.
        let (dead, alive) = (folder(u32::MAX), folder(process::id()));
        for folder in [&dead, &alive] {
            fs::create_dir(folder).unwrap();
        }
        remove_abandoned(target.path());
        assert!(!dead.exists() && alive.exists());
    }

    #[test]
    fn messages_are_counted_and_summaries_left_out() {
        let mut report = Report::new("a");
        for line in [
            r#"{"message":"unused","level":"warning","rendered":"warning: unused\n"}"#,
            r#"{"message":"1 warning emitted","level":"warning","rendered":"warning: 1\n"}"#,
            r#"{"message":"bad","level":"error","rendered":"error: bad\n"}"#,
            r#"{"message":"aborting due to 1 previous error","level":"error","rendered":"x\n"}"#,
            r#"{"artifact":"/t/a.d","emit":"dep-info"}"#,
            r#"{"artifact":"/t/liba.so","emit":"link"}"#,
            "from a macro",
        ] {
            report.read(line);
        }
        assert_eq!((report.errors, report.warnings), (1, 1));
        assert_eq!(report.library.as_deref(), Some(Path::new("/t/liba.so")));
        assert_eq!(report.text, "warning: unused\nerror: bad\nfrom a macro\n");
    }
}
