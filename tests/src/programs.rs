//! Folders of process plugins, as a test wants them: the fixture `program` with what it is to do,
//! or something in its place that cannot run. It starts nothing but `cp`.

use std::env::consts::ARCH;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::binary;

/// A process plugin that is about to be installed.
#[derive(Debug)]
#[must_use = "nothing is installed before `install`"]
pub struct ProgramFolder {
    folder: PathBuf,
    fields: Map<String, Value>,
    behavior: Value,
    program: Program,
    mode: u32,
    sealed: bool,
}

/// What stands where the program should.
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
    /// Prepares a plugin of this name, in a folder of this name in `dir`: the fixture `program`,
    /// which is a plain echo until it is told to [`behave`](Self::behave) otherwise.
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
            unreachable!("it is written as an object");
        };
        Self {
            folder: dir.as_ref().join(name),
            fields,
            behavior: json!({}),
            program: Program::Built { package: "program".to_owned(), bin: "program".to_owned() },
            mode: 0o755,
            sealed: true,
        }
    }

    /// Says what the fixture does; its sources say what can be asked for.
    pub fn behavior(mut self, behavior: Value) -> Self {
        self.behavior = behavior;
        self
    }

    /// Gives it a config.
    pub fn config(self, config: Value) -> Self {
        self.set("config", config)
    }

    /// Gives it arguments that go before all others.
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

    /// Leaves a field out of its manifest.
    pub fn remove(mut self, field: &str) -> Self {
        self.fields.remove(field);
        self
    }

    /// Takes a binary of another workspace package.
    pub fn built(mut self, package: &str, bin: &str) -> Self {
        self.program = Program::Built { package: package.to_owned(), bin: bin.to_owned() };
        self
    }

    /// Puts these bytes in the program's place: a script, or what no system runs.
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.program = Program::Bytes(bytes.into());
        self
    }

    /// Puts a program of another processor in its place.
    pub fn for_another_processor(self) -> Self {
        self.bytes(foreign_elf())
    }

    /// Puts a script in its place whose interpreter is not installed.
    pub fn without_interpreter(self) -> Self {
        self.bytes("#!/nowhere/bin/interpreter\nprint()\n")
    }

    /// Puts a script in its place that does not say what runs it.
    pub fn without_shebang(self) -> Self {
        self.bytes("echo '{}'\n")
    }

    /// Puts nothing in its place.
    pub fn without_program(mut self) -> Self {
        self.program = Program::Nothing;
        self
    }

    /// Takes the right to run it away.
    pub fn not_executable(self) -> Self {
        self.mode(0o644)
    }

    /// Sets the program's mode.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// States neither digest nor length.
    pub fn unverified(mut self) -> Self {
        self.sealed = false;
        self
    }

    /// Installs it; answers with its folder. What was installed there before is replaced, whether
    /// it runs or not.
    ///
    /// # Panics
    ///
    /// When something does not build, or the disk does not allow it; so do all others here.
    pub fn install(mut self) -> PathBuf {
        fs::create_dir_all(&self.folder).expect("a folder for the plugin");
        set_mode(&self.folder, 0o755);
        behavior(&self.folder, &self.behavior);
        let program = self.folder.join("program");
        let unfinished = self.folder.join(".program.unfinished");
        let exists = match &self.program {
            Program::Nothing => false,
            Program::Built { package, bin } => {
                copy(&binary(package, &[], bin), &unfinished);
                true
            }
            Program::Bytes(bytes) => {
                let text = self.folder.join(".program.text");
                fs::write(&text, bytes).expect("a program can be written");
                copy(&text, &unfinished);
                fs::remove_file(text).expect("what was written can be removed");
                true
            }
        };
        if exists {
            if self.sealed {
                let bytes = fs::read(&unfinished).expect("what was written can be read");
                let digest = Sha256::digest(&bytes);
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                self.fields.entry("sha256").or_insert(digest.into());
                self.fields.entry("length").or_insert(bytes.len().into());
            }
            set_mode(&unfinished, self.mode);
            fs::rename(&unfinished, &program).expect("a program can be put in place");
        }
        let manifest = serde_json::to_string_pretty(&self.fields).expect("JSON can be written");
        put(&self.folder.join("plugin.json"), &manifest);
        self.folder
    }
}

/// Says what the fixture in a folder does from its next launch on.
///
/// # Panics
///
/// When the disk does not allow it.
pub fn behavior(folder: &Path, behavior: &Value) {
    put(&folder.join("behavior.json"), &behavior.to_string());
}

/// The processes that a journal of the fixture tells of, `capabilities` or `start`, in order;
/// none while there is no journal.
///
/// # Panics
///
/// When the journal holds something else.
pub fn launches(journal: &Path, of: &str) -> Vec<u32> {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let ids = text.lines().filter_map(|line| line.strip_prefix(of)?.strip_prefix(' '));
    ids.map(|id| id.parse().expect("a journal holds process ids")).collect()
}

/// The state of a process as Linux tells it, such as `S` for asleep and `Z` for a zombie; none
/// where there is no such process.
pub fn state_of(process: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The head of an ELF program of a processor that is not this one.
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
    // The sizes of the ELF header and of the headers of programs and sections.
    head[52] = 64;
    head[54] = 56;
    head[58] = 64;
    head
}

/// Puts a text there, whole or not at all.
fn put(file: &Path, text: &str) {
    let unfinished = file.with_extension("unfinished");
    fs::write(&unfinished, text).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
    set_mode(&unfinished, 0o644);
    fs::rename(&unfinished, file).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()));
}

/// A file that this process writes cannot be run while another test's child, which is just being
/// started, has it open too; so another process writes it.
#[allow(clippy::disallowed_methods, reason = "what is to be run is written by `cp`")]
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--").arg(from).arg(to).output();
    let copied = copied.unwrap_or_else(|error| panic!("cp cannot be started: {error}"));
    let told = String::from_utf8_lossy(&copied.stderr);
    assert!(copied.status.success(), "`{}` is not copied: {told}", from.display());
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plugins;

    /// What running `program capabilities` in its folder comes to.
    #[allow(clippy::disallowed_methods, reason = "the fixture is tried out")]
    fn capabilities(folder: &Path) -> std::io::Result<String> {
        let mut program = Command::new(folder.join("program"));
        let output = program.current_dir(folder).arg("capabilities").output()?;
        Ok(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn fixture_program_follows_its_behave_file() {
        let plugins = Plugins::new();
        let journal = plugins.dir().join("journal");
        let told = json!({ "capabilities": { "hotbay": { "protocol": 7 } }, "journal": journal });
        let folder = ProgramFolder::new(plugins.dir(), "usual").behavior(told).install();
        let answer: Value = serde_json::from_str(&capabilities(&folder).unwrap()).unwrap();
        assert_eq!(answer["hotbay"]["protocol"], 7);
        assert_eq!(answer["hotbay"]["endpoints"], json!(["execute", "batch"]));
        assert_eq!(launches(&journal, "capabilities").len(), 1);
        behavior(&folder, &json!({ "capabilities": "not JSON" }));
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
