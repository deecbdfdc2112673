//! `hotbay build` with the folders of scripts: what it installs, and what its watch sees.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use hotbay_tests::{LIMIT, Plugins, binary, until};

fn script(folder: &Path, name: &str, text: &str) {
    fs::create_dir_all(folder).unwrap();
    let program = folder.join("run.sh");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let manifest = format!(
        r#"{{"name": "{name}", "version": "1.0.0", "api": "^1.0", "kind": "process", "command": ["run.sh"]}}"#
    );
    fs::write(folder.join("plugin.json"), manifest).unwrap();
}

#[allow(clippy::disallowed_methods, reason = "the command is a process")]
fn hotbay(here: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("hotbay-cli", "hotbay"));
    command.args(arguments).current_dir(here).stdin(Stdio::null());
    command
}

fn command(here: &Path, arguments: &[&str]) -> Command {
    hotbay(here, &[&["build"], arguments].concat())
}

/// `hotbay build --watch`, with the lines that it prints.
struct Watch {
    process: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(here: &Path, from: &str) -> Self {
        let mut command = command(here, &[from, "--out", "out", "--watch"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout: Box<dyn Read + Send> = Box::new(process.stdout.take().unwrap());
        let stderr: Box<dyn Read + Send> = Box::new(process.stderr.take().unwrap());
        for stream in [stdout, stderr] {
            let sender = sender.clone();
            // Ends with the process.
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { process, lines }
    }

    /// Waits for a line with this text, and discards those before it.
    fn wait_for(&self, text: &str) {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(text) => return,
                Ok(line) => before.push(line),
                Err(error) => panic!("{error}: no line with {text:?} in {before:#?}"),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn installed(here: &Path, plugin: &str, text: &str) {
    let file: PathBuf = here.join("out").join(plugin).join("run.sh");
    let is_it = || fs::read_to_string(&file).is_ok_and(|found| found == text).then_some(());
    until(&format!("`{plugin}` is installed as {text:?}"), is_it);
}

#[test]
fn plugins_installed_in_the_folder_of_a_script_are_not_installed_again() {
    let root = Plugins::new();
    script(root.dir(), "s", "1");
    for _ in 0..2 {
        assert!(command(root.dir(), &[]).stdout(Stdio::null()).status().unwrap().success());
    }
    let installed = root.dir().join("target/plugins/s");
    assert_eq!(fs::read_dir(installed).unwrap().count(), 2);
}

#[test]
fn invalid_plugin_name_is_refused_and_escaped() {
    let root = Plugins::new();
    script(root.dir(), r"\u001b[31mred", "1");
    let output = command(root.dir(), &[]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("`name` is ") && stderr.contains("expected a lower-case letter"),
        "{stderr}"
    );
    assert!(!stderr.contains('\x1b'), "{stderr:?}");
    assert!(!root.dir().join("target").exists());
}

#[test]
fn build_that_the_host_would_refuse_is_not_installed() {
    let root = Plugins::new();
    script(root.dir(), "s", "1");
    assert!(command(root.dir(), &[]).stdout(Stdio::null()).status().unwrap().success());
    let manifest = root.dir().join("plugin.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"api\"", "\"apis\"")).unwrap();
    let output = command(root.dir(), &[]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("`apis` is not a known field"), "{stderr}");
    assert!(stderr.contains("did you mean `api`?"), "{stderr}");
    let installed = fs::read_to_string(root.dir().join("target/plugins/s/plugin.json")).unwrap();
    assert!(installed.contains("\"api\""), "{installed}");
}

#[test]
fn new_plugin_links_the_sdk_beside_the_command() {
    let root = Plugins::new();
    let mut command = hotbay(root.dir(), &["new", "greet"]);
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let manifest = fs::read_to_string(root.dir().join("greet/Cargo.toml")).unwrap();
    let path = manifest.split_once("path = \"").expect("a path").1.split('"').next().unwrap();
    assert!(Path::new(path).join("src/lib.rs").is_file(), "{manifest}");
}

#[test]
fn call_of_a_refused_plugin_gives_the_reason() {
    let root = Plugins::new();
    script(&root.dir().join("other"), "s", "1");
    fs::write(root.dir().join("other/plugin.json"), r#"{ "name": "s" }"#).unwrap();
    let output = hotbay(root.dir(), &["call", "s", "--dir", "."]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("plugin `s` not found"), "{stderr}");
    assert!(stderr.contains("`api` is missing"), "{stderr}");
}

#[test]
fn stdout_that_cannot_be_written_is_an_error() {
    let root = Plugins::new();
    script(root.dir(), "s", "1");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(root.dir(), &[]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot write to stdout"), "{stderr}");
}

#[test]
fn watch_builds_what_changed_during_an_error() {
    let root = Plugins::new();
    let here = root.dir();
    script(&here.join("from/a"), "s", "1");
    let watch = Watch::start(here, "from");
    watch.wait_for("watching");
    installed(here, "s", "1");
    // The same name twice, and then another one in the new folder.
    script(&here.join("from/b"), "s", "b");
    fs::write(here.join("from/a/run.sh"), "2").unwrap();
    watch.wait_for("error: ");
    script(&here.join("from/b"), "t", "b");
    installed(here, "t", "b");
    installed(here, "s", "2");
}

#[test]
fn watch_follows_links_and_folders_that_are_created_again() {
    let root = Plugins::new();
    let here = root.dir();
    script(&here.join("a"), "s", "1");
    symlink("a", here.join("link")).unwrap();
    let linked = Watch::start(here, "link");
    linked.wait_for("watching");
    installed(here, "s", "1");
    fs::write(here.join("a/run.sh"), "2").unwrap();
    installed(here, "s", "2");
    drop(linked);
    let watch = Watch::start(here, "a");
    watch.wait_for("watching");
    fs::write(here.join("a/run.sh"), "3").unwrap();
    installed(here, "s", "3");
    fs::rename(here.join("a"), here.join("b")).unwrap();
    watch.wait_for("error: ");
    script(&here.join("a"), "s", "4");
    installed(here, "s", "4");
}
