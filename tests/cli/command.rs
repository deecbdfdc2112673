//! Runs the command `hotbay` as a subprocess, and compares its whole output with a snapshot. Contains
//! no tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use hotbay_tests::{Plugins, binary};
use regex::Regex;
use serde_json::{Value, json};
use snapbox::assert::DEFAULT_ACTION_ENV;
use snapbox::{Assert, IntoData, Redactions};

/// Variables of the developer's shell that change the output.
pub(crate) const TERMINAL_VARIABLES: [&str; 8] = [
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLUMNS",
    "FORCE_COLOR",
    "NO_COLOR",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TERM",
];

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Run {
    command_line: String,
    dir: PathBuf,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Run {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in: {}{}", self.text(), self.stderr))
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.stderr);
        assert!(!self.stderr.contains("panicked at"), "{}", self.stderr);
        self
    }

    /// Compares the command line, the whole output and the exit code with a snapshot.
    #[track_caller]
    pub(crate) fn shows(&self, snapshot: impl IntoData) {
        assert_shows(&self.transcript(), &self.dir, snapshot);
    }

    /// Returns the run as a shell session: the command line, stdout, stderr below a line `--- stderr`,
    /// and the exit code unless it is 0.
    fn transcript(&self) -> String {
        let mut lines = vec![format!("$ {}", self.command_line)];
        let stdout = self.text();
        lines.extend(stdout.lines().map(str::to_owned));
        if !stdout.is_empty() && !stdout.ends_with('\n') {
            lines.push(r"\ no newline at the end".to_owned());
        }
        if !self.stderr.is_empty() {
            lines.push("--- stderr".to_owned());
            lines.extend(self.stderr.lines().map(str::to_owned));
        }
        match self.code {
            Some(0) => {}
            Some(code) => lines.push(format!("--- exit code {code}")),
            None => lines.push("--- ended by a signal".to_owned()),
        }
        lines.join("\n")
    }
}

/// Compares an output of the command with a snapshot, in which placeholders stand for what differs
/// between runs, builds or systems. `SNAPSHOTS=overwrite` updates the snapshot instead.
#[track_caller]
pub(crate) fn assert_shows(output: &str, dir: &Path, snapshot: impl IntoData) {
    let assert = Assert::new().action_env(DEFAULT_ACTION_ENV).redact_with(redactions(dir));
    // A backslash is a separator in paths of Windows only; elsewhere, it escapes characters.
    let assert = assert.normalize_paths(cfg!(windows));
    assert.eq(as_on_linux(output), snapshot);
}

/// Placeholders with the patterns that they stand for. A group `redacted` limits what is replaced.
const REDACTIONS: [(&str, &str); 19] = [
    // As long as a version, so that columns stay aligned.
    ("[VER]", concat!(r"\b", env!("CARGO_PKG_VERSION"), r"\b")),
    ("[API]", r#"(for API  |"api": ")(?<redacted>\d+\.\d+\.\d+)"#),
    ("[BYTES]", r#"(\bbytes  +|length": )(?<redacted>\d+)"#),
    ("[COPIES]", r"(?<redacted>/[^\s`]*/hotbay-\d+-[A-Za-z0-9]{6})/"),
    ("[COUNT]", r"outlived it: (?<redacted>\d+) "),
    ("[DIGEST]", r"\b[0-9a-f]{64}\b"),
    ("[DURATION]", r"\b(?<redacted>[\d.]+(ns|µs|ms|s)) each"),
    ("[DURATION]", r"\b\d+ ms\b"),
    ("[ERRNO]", r"\(os error (?<redacted>\d+)\)"),
    ("[MS]", r#""after_ms":(?<redacted>\d+)"#),
    ("[NAMES]", r"\b(links|exports)  +(?<redacted>\S.*)"),
    // An ephemeral port.
    ("[PORT]", r"(\bport |\b127\.0\.0\.1:|\b0\.0\.0\.0:)(?<redacted>\d{5})\b"),
    ("[POSITION]", r"\.rs:(?<redacted>\d+:\d+)"),
    ("[PROCESS]", r#"(, process |"pid": ?)(?<redacted>\d+)"#),
    ("[RUSTC]", r#"\brustc (?<redacted>\d[^\n"]*)"#),
    ("[SOCKET]", r"\bhttp\+unix://[^\s`]+"),
    ("[TARGET]", r#"(\btarget  +|"target": ")(?<redacted>[a-z0-9_-]+)"#),
    ("[TIME]", r"(?m)^(?<redacted>\d\d:\d\d:\d\d) "),
    ("[TIMESTAMP]", r"\b\d{4}-\d{2}-\d{2}T[\d:.]+Z"),
];

/// Returns the redactions for a run in this folder, which is `[ROOT]`.
pub(crate) fn redactions(dir: &Path) -> Redactions {
    static ANYWHERE: LazyLock<Redactions> = LazyLock::new(|| {
        let mut redactions = Redactions::new();
        for (placeholder, pattern) in REDACTIONS {
            redactions.insert(placeholder, Regex::new(pattern).unwrap()).unwrap();
        }
        redactions
    });
    let mut redactions = ANYWHERE.clone();
    // Both forms occur on systems whose temporary folder is a link.
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    for root in [dir, &real] {
        redactions.insert("[ROOT]", root.display().to_string()).unwrap();
    }
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.starts_with("hotbay-tests-") {
        redactions.insert("[FOLDER]", name).unwrap();
    }
    redactions
}

/// Replaces the names of libraries on other systems (`libx.dylib` and `x.dll` become `libx.so`), and
/// the text of the most frequent error.
fn as_on_linux(output: &str) -> String {
    let library = match std::env::consts::DLL_SUFFIX {
        ".so" => return output.to_owned(),
        suffix => format!(r"\b(?:lib)?([a-z0-9_]+){}\b", regex::escape(suffix)),
    };
    let output = Regex::new(&library).unwrap().replace_all(output, "lib$1.so").into_owned();
    output.replace("The system cannot find the file specified.", "No such file or directory")
}

#[allow(clippy::disallowed_methods, reason = "the command is a process")]
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary("hotbay-cli", "hotbay"));
    command.args(args).current_dir(dir);
    for variable in TERMINAL_VARIABLES {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the command without input.
pub(crate) fn hotbay(dir: &Path, args: &[&str]) -> Run {
    run(dir, args, command(dir, args).output())
}

pub(crate) fn run(dir: &Path, args: &[&str], output: std::io::Result<Output>) -> Run {
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let command_line = command_line(args);
    let dir = dir.to_owned();
    Run { command_line, dir, code: output.status.code(), stdout: output.stdout, stderr }
}

/// Returns the command line as typed in a shell.
pub(crate) fn command_line(args: &[&str]) -> String {
    let is_plain = |char: char| char.is_alphanumeric() || "-_./=:".contains(char);
    let word = |arg: &&str| match !arg.is_empty() && arg.chars().all(is_plain) {
        true => (*arg).to_owned(),
        false => format!("'{arg}'"),
    };
    let words: Vec<_> = args.iter().map(word).collect();
    ["hotbay"].into_iter().chain(words.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

/// Runs the command with an input.
pub(crate) fn with_input(dir: &Path, args: &[&str], input: &[u8]) -> Run {
    let mut child = command(dir, args).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (input, input_text) = (input.to_owned(), input.escape_ascii().to_string());
    let writer = std::thread::spawn(move || {
        // A command that ignores its input may have exited already.
        let _ = stdin.write_all(&input);
    });
    let mut run = run(dir, args, child.wait_with_output());
    run.command_line = match input_text.len() {
        0..=40 => format!("printf '{input_text}' | {}", run.command_line),
        _ => format!("{} < input", run.command_line),
    };
    writer.join().unwrap();
    run
}

/// Installs the examples in a folder that the command finds on its own.
pub(crate) fn examples() -> Plugins {
    let plugins = Plugins::new();
    plugins.add_in("plugins/transform", "transform", "transform").write();
    let rules = json!({ "rules": [{ "rule": "positive" }] });
    plugins.add_in("plugins/filter", "filter", "filter").config(rules).write();
    plugins
}

/// Installs a plugin without a digest that misbehaves as configured.
pub(crate) fn unverified(plugins: &Plugins, name: &str, config: Value) {
    let folder = format!("plugins/{name}");
    plugins.add_in(&folder, name, "faulty").config(config).unverified().write();
}

/// Installs the fixture `served` as a library and as a process, in a folder that the command finds.
#[cfg(unix)]
pub(crate) fn both_kinds() -> Plugins {
    let plugins = Plugins::new();
    let folder = plugins.dir().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    plugins.add_in("plugins/library", "library", "served").write();
    let program = hotbay_tests::ProgramFolder::new(&folder, "process").built("served", "served");
    program.set("package", "served").config(json!({ "start": 41 })).install();
    plugins
}
