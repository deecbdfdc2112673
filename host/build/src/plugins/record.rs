//! Records the command with which cargo starts the compiler for one crate, so that `replay.rs` can
//! run it again. The program that builds is its own wrapper: cargo starts it in place of the
//! compiler, and it becomes the compiler.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::cargo;

/// The file that gets the command. A process with this variable may be the wrapper.
const FILE: &str = "HOTBAY_RECORD_COMPILER";
/// The folder of the crate whose command is recorded.
const CRATE: &str = "HOTBAY_RECORD_CRATE";
/// The variable that names cargo's wrapper for the crates of a workspace.
const WRAPPER: &str = "RUSTC_WORKSPACE_WRAPPER";
/// Other places where a user may set that wrapper.
const WRAPPER_SETTINGS: [&str; 2] = [WRAPPER, "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER"];
/// Variables that only hold during cargo's own run: its job server, and those above.
const OF_THE_RUN: [&str; 6] = [FILE, CRATE, WRAPPER, "CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS"];

/// This program, if it can be the wrapper.
static SELF: OnceLock<PathBuf> = OnceLock::new();

/// Runs the compiler if cargo started this program as its wrapper; call it first in `main`. A
/// program that never calls it builds without records.
///
/// Returns the exit code of the compiler, or `None` if this is a normal start.
pub fn run_as_wrapper() -> Option<ExitCode> {
    let file = env::var_os(FILE);
    let mut arguments = env::args_os().skip(1);
    if let (Some(file), Some(program)) = (file, arguments.next())
        && is_compiler(&program)
    {
        let arguments: Vec<OsString> = arguments.collect();
        record(Path::new(&file), &program, &arguments);
        let mut command = cargo::compiler(Path::new("."), &program);
        return Some(become_compiler(command.args(arguments)));
    }
    if let Ok(this) = env::current_exe() {
        SELF.get_or_init(|| this);
    }
    None
}

/// Returns whether the first argument is a compiler, not a subcommand: a build script may start
/// this program too.
fn is_compiler(program: &OsStr) -> bool {
    let path = Path::new(program);
    path.components().count() > 1
        || path.file_stem() == Some(OsStr::new("rustc"))
        || env::var_os("RUSTC").as_deref() == Some(program)
}

#[cfg(unix)]
fn become_compiler(command: &mut Command) -> ExitCode {
    use std::os::unix::process::CommandExt as _;
    let error = command.exec();
    crate::print::message(format_args!("error: cannot start {}: {error}", cargo::display(command)));
    ExitCode::FAILURE
}

#[cfg(not(unix))]
fn become_compiler(command: &mut Command) -> ExitCode {
    let code = command.status().ok().and_then(|status| status.code());
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Writes the command to `file` if it compiles the library of the crate. Without the file, the next
/// build is cargo's again, so errors are ignored.
fn record(file: &Path, program: &OsStr, arguments: &[OsString]) {
    let is_of_crate = env::var_os("CARGO_MANIFEST_DIR") == env::var_os(CRATE);
    let is_library = arguments.windows(2).any(|two| two[0] == "--crate-type" && two[1] == "cdylib");
    if !is_of_crate || !is_library {
        return;
    }
    let text = |text: &OsStr| text.to_str().map(str::to_owned);
    let arguments: Option<Vec<_>> = arguments.iter().map(|one| text(one)).collect();
    let variables = env::vars_os().filter(|(name, _)| !OF_THE_RUN.iter().any(|one| name == one));
    let variables: Option<Map<_, _>> =
        variables.map(|(name, value)| Some((text(&name)?, Value::String(text(&value)?)))).collect();
    let folder = env::current_dir().ok().and_then(|folder| text(folder.as_os_str()));
    let (Some(program), Some(arguments), Some(variables), Some(folder)) =
        (text(program), arguments, variables, folder)
    else {
        return;
    };
    let command = json!({
        "program": program, "arguments": arguments, "variables": variables, "folder": folder,
    });
    let _ = fs::write(file, command.to_string());
}

/// A request to record the command of one crate during a run of cargo.
#[derive(Debug)]
pub(super) struct Recorder {
    wrapper: &'static Path,
    folder: PathBuf,
    dir: TempDir,
}

impl Recorder {
    /// Returns `None` if this program cannot be the wrapper, or if the user may have one. `settings`
    /// are the texts of cargo's settings; they may include other files, which are not read.
    pub(super) fn new(folder: &Path, settings: &[String]) -> Option<Self> {
        let wrapper = SELF.get().filter(|this| this.is_file())?;
        let is_set = WRAPPER_SETTINGS.iter().any(|name| env::var_os(name).is_some())
            || settings.iter().flat_map(|text| text.lines()).any(|line| {
                line.contains("rustc-workspace-wrapper") || line.trim_start().starts_with("include")
            });
        let dir = tempfile::Builder::new().prefix("hotbay-build-").tempdir().ok()?;
        (!is_set).then(|| Self { wrapper, folder: folder.to_owned(), dir })
    }

    /// Makes this run of cargo record.
    pub(super) fn attach(&self, cargo: &mut Command) {
        cargo.env(WRAPPER, self.wrapper).env(FILE, self.file()).env(CRATE, &self.folder);
    }

    /// Returns the command, or `None` if cargo did not compile the crate.
    pub(super) fn recorded(&self) -> Option<Recorded> {
        let file = self.file();
        let started = fs::metadata(&file).and_then(|metadata| metadata.modified()).ok()?;
        let value: Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let variables = value["variables"].as_object()?.iter();
        Some(Recorded {
            program: text(&value["program"])?.into(),
            arguments: value["arguments"].as_array()?.iter().map(text).collect::<Option<_>>()?,
            variables: variables
                .map(|(name, value)| Some((name.clone(), text(value)?)))
                .collect::<Option<_>>()?,
            folder: text(&value["folder"])?.into(),
            started,
        })
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("command.json")
    }
}

/// A command of the compiler.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// All variables of its environment.
    pub(super) variables: Vec<(String, String)>,
    /// Its working directory.
    pub(super) folder: PathBuf,
    /// When cargo started it.
    pub(super) started: SystemTime,
}
