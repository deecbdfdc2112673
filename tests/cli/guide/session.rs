//! A chapter as a shell session: files are written, commands are run in order, and their output is
//! compared with the block.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use hotbay_tests::{LIMIT, binary};
use regex::Regex;
use snapbox::Assert;

use super::blocks::Block;
use super::root;
use crate::command::{TERMINAL_VARIABLES, redactions};

/// What differs between builds, besides what all snapshots of the command redact.
const VARYING: [(&str, &str); 10] = [
    (r"RW[A-Za-z0-9+/]{54}", "[PUBLIC KEY]"),
    (r"\b[0-9A-F]{16}\b", "[KEY ID]"),
    (r"/home/me\b", "[ROOT]"),
    (r"generation \d+", "generation [N]"),
    (r"\(was \d+\)", "(was [N])"),
    (r"; \[DURATION\] after its files were written", ""),
    (r"\(\d+ KiB\)", "([SIZE] KiB)"),
    (r"finished in [\d.]+s", "finished in [TIME]s"),
    (r"/[^\s]*/hotbay-guide-[a-z0-9-]+", "[ROOT]"),
    (r"(?m) +$", ""),
];

/// A folder with `hotbay`, a link to the repository, in which a reader types commands.
pub(super) struct Session {
    name: &'static str,
    folder: PathBuf,
    /// The command that stays, and its lines.
    staying: Option<(Staying, Receiver<String>)>,
}

/// A process that is ended with its children when dropped.
struct Staying(Child);

impl Drop for Staying {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        // It may have exited already.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        let start = Instant::now();
        while let Ok(None) = self.0.try_wait() {
            if start.elapsed() > LIMIT {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            thread::yield_now();
        }
    }
}

impl Session {
    /// Creates the folder. Its path is always the same, so that cargo finds what it built before.
    pub(super) fn new(name: &'static str) -> Self {
        let mut hasher = DefaultHasher::new();
        root().hash(&mut hasher);
        let folder = format!("hotbay-guide-{name}-{:08x}", hasher.finish() as u32);
        let folder = std::env::temp_dir().join(folder);
        // Left by a test that failed.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(root(), folder.join("hotbay")).unwrap();
        Self { name, folder, staying: None }
    }

    /// Runs the blocks, and removes the folder.
    pub(super) fn run(mut self, blocks: &[Block]) {
        for block in blocks {
            if let Some(file) = &block.file {
                self.write(file, &block.text);
            }
            if block.language == "console" {
                self.type_in(block);
            }
        }
        self.staying = None;
        fs::remove_dir_all(&self.folder).unwrap();
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Lines that the book hides.
        let shown = |line: &str| line.strip_prefix("# ").unwrap_or(line).to_owned() + "\n";
        let text = match file.ends_with(".rs") {
            true => text.lines().map(shown).collect(),
            false => text.to_owned(),
        };
        fs::write(&path, &text).unwrap();
        if text.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn type_in(&mut self, block: &Block) {
        let at = format!("docs/src/{}.md:{}", self.name, block.line);
        let (before, commands) = split(&block.text);
        if !before.is_empty() {
            self.wait_for(&at, &before);
        }
        for (command, expected) in commands {
            self.lock_crates();
            if block.stays {
                self.start(&command);
                self.wait_for(&at, &expected);
                continue;
            }
            let output = self.shell(&format!("({command}) 2>&1")).output().unwrap();
            let output = String::from_utf8_lossy(&output.stdout).into_owned();
            // Shown if the test fails.
            eprintln!("{at}: $ {command}\n{output}");
            let (found, expected) = (self.normalized(&output), self.normalized(&expected));
            Assert::new().eq(found, expected);
        }
    }

    /// Starts a command that stays.
    fn start(&mut self, command: &str) {
        if let Some(rest) = command.strip_prefix("cargo run ") {
            // Takes longer than a test waits for a line.
            let built = self.shell(&format!("cargo build {rest}")).output().unwrap();
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        }
        let mut command = self.shell(&format!("exec {command} 2>&1"));
        let mut child = command.process_group(0).spawn().unwrap();
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may have failed meanwhile.
                let _ = sender.send(line);
            }
        });
        self.staying = Some((Staying(child), lines));
    }

    /// Waits until the command that stays has printed these lines, in any order.
    fn wait_for(&self, at: &str, expected: &str) {
        let (_, lines) = self.staying.as_ref().unwrap_or_else(|| panic!("{at}: nothing runs"));
        let expected = self.normalized(expected);
        let mut missing: Vec<_> = expected.lines().map(str::to_owned).collect();
        let mut seen = Vec::new();
        while !missing.is_empty() {
            let line = lines.recv_timeout(LIMIT);
            let line =
                line.unwrap_or_else(|error| panic!("{at}: {error}: {missing:#?} not in {seen:#?}"));
            let normalized = self.normalized(&line);
            let is_it = |expected: &String| expected == normalized.trim_end();
            if let Some(found) = missing.iter().position(is_it) {
                missing.remove(found);
            }
            seen.push(line);
        }
    }

    #[allow(clippy::disallowed_methods, reason = "commands of the guide are run by a shell")]
    fn shell(&self, command: &str) -> Command {
        let hotbay = binary("hotbay-cli", "hotbay");
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", hotbay.parent().unwrap().display());
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(&self.folder);
        for variable in TERMINAL_VARIABLES {
            shell.env_remove(variable);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO") {
                shell.env_remove(name);
            }
        }
        if let Some(home) = std::env::var_os("CARGO_HOME") {
            shell.env("CARGO_HOME", home);
        }
        // As in the workspace, so that its builds of the same dependencies are used.
        shell.env("CARGO_TARGET_DIR", target_dir(&hotbay)).env("CARGO_PROFILE_DEV_DEBUG", "0");
        shell.env("CARGO_NET_OFFLINE", "true").env("PATH", path);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    }

    /// Gives crates without a lock file the versions of the workspace.
    fn lock_crates(&self) {
        for entry in fs::read_dir(&self.folder).unwrap() {
            let folder = entry.unwrap().path();
            let lock = folder.join("Cargo.lock");
            if folder.join("Cargo.toml").is_file() && !lock.exists() {
                fs::copy(root().join("Cargo.lock"), lock).unwrap();
            }
        }
    }

    fn normalized(&self, text: &str) -> String {
        let mut text = redactions(&self.folder).redact(text);
        for (pattern, placeholder) in VARYING {
            text = Regex::new(pattern).unwrap().replace_all(&text, placeholder).into_owned();
        }
        text.trim_end().to_owned() + "\n"
    }
}

fn target_dir(binary: &Path) -> PathBuf {
    let marked = binary.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    marked.expect("the target folder").to_owned()
}

/// Returns the text before the first command, and each command with its output.
fn split(text: &str) -> (String, Vec<(String, String)>) {
    let mut before = String::new();
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => before += &format!("{line}\n"),
        }
    }
    (before, commands)
}
