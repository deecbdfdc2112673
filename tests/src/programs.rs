//! Folders of process plugins: the fixture `program` with a given behavior, or a file that cannot
//! run. Starts nothing but `cp`.

use std::env::{self, consts::ARCH};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::binary;

/// A process plugin to be installed.
#[derive(Debug)]
#[must_use = "nothing is installed before `install`"]
pub struct ProgramFolder {
    folder: PathBuf,
    fields: Map<String, Value>,
    behavior: Value,
    program: Program,
    /// The name of the program's file.
    file: String,
    /// Names and texts of files beside it.
    beside: Vec<(String, String)>,
    mode: u32,
    sealed: bool,
}

/// The file installed as the program.
#[derive(Debug)]
enum Program {
    /// A binary of a workspace package.
    Built {
        package: String,
        bin: String,
    },
    Bytes(Vec<u8>),
    Nothing,
}

impl ProgramFolder {
    /// Prepares a plugin with this name, in a folder with this name in `dir`. It runs the fixture
    /// `program`, an echo unless [`behavior`](Self::behavior) changes that.
    pub fn new(dir: impl AsRef<Path>, name: &str) -> Self {
        let fields = json!({
            "name": name,
            "version": "0.1.0",
            "api": "^1.0",
            "kind": "process",
            "command": ["program"],
            "permissions": ["log"],
        });
        let Value::Object(fields) = fields else {
            unreachable!("the literal is an object");
        };
        Self {
            folder: dir.as_ref().join(name),
            fields,
            behavior: json!({}),
            program: Program::Built { package: "program".to_owned(), bin: "program".to_owned() },
            file: "program".to_owned(),
            beside: Vec::new(),
            mode: 0o755,
            sealed: true,
        }
    }

    /// Sets the behavior of the fixture; see its sources for the options.
    pub fn behavior(mut self, behavior: Value) -> Self {
        self.behavior = behavior;
        self
    }

    /// Sets its config.
    pub fn config(self, config: Value) -> Self {
        self.set("config", config)
    }

    /// Sets arguments that precede all others.
    pub fn arguments(self, arguments: &[&str]) -> Self {
        let mut command = vec![Value::from("program")];
        command.extend(arguments.iter().map(|&word| Value::from(word)));
        self.set("command", command)
    }

    /// Sets a field of its manifest.
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// Removes a field from its manifest.
    pub fn remove(mut self, field: &str) -> Self {
        self.fields.remove(field);
        self
    }

    /// Installs a binary of another workspace package.
    pub fn built(mut self, package: &str, bin: &str) -> Self {
        self.program = Program::Built { package: package.to_owned(), bin: bin.to_owned() };
        self
    }

    /// Installs these bytes as the program: a script, or a file that cannot run.
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.program = Program::Bytes(bytes.into());
        self
    }

    /// Names the program's file, instead of `program`.
    pub fn file(mut self, name: &str) -> Self {
        self.file = name.to_owned();
        self.set("command", vec![Value::from(name)])
    }

    /// Installs a file beside the program.
    pub fn beside(mut self, name: &str, text: &str) -> Self {
        self.beside.push((name.to_owned(), text.to_owned()));
        self
    }

    /// Installs a program for another processor.
    pub fn for_another_processor(self) -> Self {
        self.bytes(foreign_elf())
    }

    /// Installs a script whose interpreter does not exist.
    pub fn without_interpreter(self) -> Self {
        self.bytes("#!/nowhere/bin/interpreter\nprint()\n")
    }

    /// Installs a script without a `#!` line.
    pub fn without_shebang(self) -> Self {
        self.bytes("echo '{}'\n")
    }

    /// Installs no program.
    pub fn without_program(mut self) -> Self {
        self.program = Program::Nothing;
        self
    }

    /// Installs the program without execute permission.
    pub fn not_executable(self) -> Self {
        self.mode(0o644)
    }

    /// Sets the mode of the program.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Leaves out digest and length.
    pub fn unverified(mut self) -> Self {
        self.sealed = false;
        self
    }

    /// Installs the plugin and returns its folder. Replaces an earlier installation, even if it
    /// runs.
    ///
    /// # Panics
    ///
    /// Panics if a build fails or on I/O errors.
    pub fn install(mut self) -> PathBuf {
        fs::create_dir_all(&self.folder).expect("the plugin's folder can be created");
        set_mode(&self.folder, 0o755);
        set_behavior(&self.folder, &self.behavior);
        for (name, text) in &self.beside {
            put(&self.folder.join(name), text);
        }
        let program = self.folder.join(&self.file);
        let unfinished = self.folder.join(".program.unfinished");
        let exists = match &self.program {
            Program::Nothing => false,
            Program::Built { package, bin } => {
                copy(&binary(package, bin), &unfinished);
                true
            }
            Program::Bytes(bytes) => {
                let text = self.folder.join(".program.text");
                fs::write(&text, bytes).expect("the program can be written");
                copy(&text, &unfinished);
                fs::remove_file(text).expect("the temporary file can be removed");
                true
            }
        };
        if exists {
            if self.sealed {
                let bytes = fs::read(&unfinished).expect("the program can be read");
                let digest = Sha256::digest(&bytes);
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                self.fields.entry("sha256").or_insert(digest.into());
                self.fields.entry("length").or_insert(bytes.len().into());
            }
            set_mode(&unfinished, self.mode);
            fs::rename(&unfinished, &program).expect("the program can be renamed");
        }
        let manifest = serde_json::to_string_pretty(&self.fields).expect("a manifest serializes");
        put(&self.folder.join("plugin.json"), &manifest);
        self.folder
    }
}

/// Returns whether an interpreter or compiler of programs, such as `python3`, is in `PATH`. If not,
/// prints that a test skips them.
///
/// # Panics
///
/// Panics in CI (the variable `CI` is set) if it is missing.
pub fn has_interpreter(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let has_it = env::split_paths(&path).any(|folder| folder.join(name).exists());
    if !has_it {
        assert!(env::var_os("CI").is_none(), "`{name}` not found in PATH");
        eprintln!("skipped: `{name}` not found in PATH");
    }
    has_it
}

/// Sets the behavior of the fixture in a folder from its next launch on.
///
/// # Panics
///
/// Panics on I/O errors.
pub fn set_behavior(folder: &Path, behavior: &Value) {
    put(&folder.join("behavior.json"), &behavior.to_string());
}

/// Returns the process IDs in a journal of the fixture for `capabilities` or `start`, in order;
/// none if the journal does not exist.
///
/// # Panics
///
/// Panics if the journal contains anything else.
pub fn launches(journal: &Path, of: &str) -> Vec<u32> {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let ids = text.lines().filter_map(|line| line.strip_prefix(of)?.strip_prefix(' '));
    ids.map(|id| id.parse().expect("a journal contains process IDs")).collect()
}

/// Returns the state of a process in `/proc`, such as `S` (sleeping) or `Z` (zombie); `None` if it
/// does not exist.
pub fn state_of(process: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may contain anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Returns the header of an ELF program for another processor.
pub fn foreign_elf() -> Vec<u8> {
    const X86_64: u16 = 62;
    const AARCH64: u16 = 183;
    let machine = if ARCH == "aarch64" { X86_64 } else { AARCH64 };
    let mut head = vec![0; 64];
    // 64 bits, little-endian, version 1.
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    // An executable.
    head[16] = 2;
    head[18..20].copy_from_slice(&machine.to_le_bytes());
    head[20] = 1;
    // Sizes of the ELF header, program headers and section headers.
    head[52] = 64;
    head[54] = 56;
    head[58] = 64;
    head
}

/// Writes a text file atomically.
fn put(file: &Path, text: &str) {
    let unfinished = file.with_extension("unfinished");
    fs::write(&unfinished, text).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
    set_mode(&unfinished, 0o644);
    fs::rename(&unfinished, file).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
}

/// Copies a file in another process. A file open for writing in this process cannot be executed if
/// a concurrently forked child inherits the descriptor.
#[allow(clippy::disallowed_methods, reason = "executables are written by `cp`")]
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--").arg(from).arg(to).output();
    let copied = copied.unwrap_or_else(|error| panic!("cannot start cp: {error}"));
    let reason = String::from_utf8_lossy(&copied.stderr);
    assert!(copied.status.success(), "cannot copy `{}`: {reason}", from.display());
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plugins;

    /// Runs `program capabilities` in its folder and returns its output.
    #[allow(clippy::disallowed_methods, reason = "the test runs the fixture")]
    fn capabilities(folder: &Path) -> std::io::Result<String> {
        let mut program = Command::new(folder.join("program"));
        let output = program.current_dir(folder).arg("capabilities").output()?;
        Ok(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn fixture_program_follows_its_behave_file() {
        let plugins = Plugins::new();
        let journal = plugins.dir().join("journal");
        let reason = json!({ "capabilities": { "hotbay": { "protocol": 7 } }, "journal": journal });
        let folder = ProgramFolder::new(plugins.dir(), "usual").behavior(reason).install();
        let answer: Value = serde_json::from_str(&capabilities(&folder).unwrap()).unwrap();
        assert_eq!(answer["hotbay"]["protocol"], 7);
        assert_eq!(answer["hotbay"]["endpoints"], json!(["execute", "batch"]));
        assert_eq!(launches(&journal, "capabilities").len(), 1);
        set_behavior(&folder, &json!({ "capabilities": "not JSON" }));
        assert_eq!(capabilities(&folder).unwrap(), "not JSON");
    }

    #[test]
    fn broken_programs_fail_to_run() {
        let plugins = Plugins::new();
        let check = |program: ProgramFolder, code: i32| {
            let folder = program.install();
            let error = capabilities(&folder).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(code), "{}", folder.display());
        };
        let new = |name: &str| ProgramFolder::new(plugins.dir(), name);
        const ENOENT: i32 = 2;
        const ENOEXEC: i32 = 8;
        const EACCES: i32 = 13;
        check(new("a").not_executable(), EACCES);
        check(new("b").for_another_processor(), ENOEXEC);
        check(new("c").without_interpreter(), ENOENT);
        check(new("d").without_program(), ENOENT);
        check(new("e").without_shebang(), ENOEXEC);
    }
}
