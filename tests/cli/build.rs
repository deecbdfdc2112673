//! `hotbay new` and `hotbay build`: what they create and install, and what the watch of a build sees.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use hotbay_tests::{LIMIT, Plugins, go_environment, has_interpreter, until};
use snapbox::str;

use crate::command::{command, hotbay, run};

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

/// `hotbay build --watch`, with the lines that it prints.
pub(crate) struct Watch {
    process: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(here: &Path, from: &str) -> Self {
        Self::start_with(command(here, &["build", from, "--out", "out", "--watch"]))
    }

    pub(crate) fn start_with(mut command: Command) -> Self {
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

    /// Waits for a line with this text, and returns it and those before it.
    pub(crate) fn wait_for(&self, text: &str) -> Vec<String> {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => {
                    let is_it = line.contains(text);
                    before.push(line);
                    if is_it {
                        return before;
                    }
                }
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
fn plugins_installed_below_a_script_are_not_installed_again() {
    let root = Plugins::new();
    script(root.dir(), "s", "1");
    for _ in 0..2 {
        hotbay(root.dir(), &["build"]).exits(0);
    }
    let installed = root.dir().join("target/plugins/s");
    assert_eq!(fs::read_dir(installed).unwrap().count(), 2);
}

#[test]
fn invalid_plugin_name_is_refused_and_escaped() {
    let root = Plugins::new();
    script(root.dir(), r"\u001b[31mred", "1");
    hotbay(root.dir(), &["build"]).exits(1).shows(str![[r#"
$ hotbay build
--- stderr
error: plugin `[FOLDER]`: [ROOT]/plugin.json:1:10: `name` is "\u{1b}[31mred"; expected a lower-case letter, then at most 63 of `a-z`, `0-9`, `-`
error: not all plugins were built
  because: 1 plugin failed: [FOLDER]
--- exit code 1
"#]]);
    assert!(!root.dir().join("target").exists());
}

#[test]
fn build_that_the_host_would_refuse_is_not_installed() {
    let root = Plugins::new();
    script(root.dir(), "s", "1");
    hotbay(root.dir(), &["build"]).exits(0).shows(str![[r#"
$ hotbay build
built s 1.0.0  target/plugins/s/run.sh  (1 KiB)
"#]]);
    let manifest = root.dir().join("plugin.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"api\"", "\"apis\"")).unwrap();
    hotbay(root.dir(), &["build"]).exits(1).shows(str![[r#"
$ hotbay build
--- stderr
error: plugin `[FOLDER]`: [ROOT]/plugin.json:1:35: `apis` is not a known field
  hint: did you mean `api`?
error: not all plugins were built
  because: 1 plugin failed: [FOLDER]
--- exit code 1
"#]]);
    let installed = fs::read_to_string(root.dir().join("target/plugins/s/plugin.json")).unwrap();
    assert!(installed.contains("\"api\""), "{installed}");
}

#[test]
fn new_plugin_links_the_sdk_beside_the_command() {
    let root = Plugins::new();
    hotbay(root.dir(), &["new", "greet"]).exits(0).shows(str![[r#"
$ hotbay new greet
created greet
next:
  cargo test --manifest-path greet/Cargo.toml
  hotbay build greet
  hotbay call greet --text you
"#]]);
    let manifest = fs::read_to_string(root.dir().join("greet/Cargo.toml")).unwrap();
    let path = manifest.split_once("path = \"").expect("a path").1.split('"').next().unwrap();
    assert!(Path::new(path).join("src/lib.rs").is_file(), "{manifest}");

    // In another workspace.
    let workspace = |exclude: &str| format!("[workspace]\nexclude = [{exclude}]\n");
    fs::write(root.dir().join("Cargo.toml"), workspace("")).unwrap();
    hotbay(root.dir(), &["new", "polite"]).exits(0).shows(str![[r#"
$ hotbay new polite
created polite
next:
  add `polite` to `workspace.exclude` in [ROOT]/Cargo.toml, or to `members` without `[workspace]` in polite/Cargo.toml
  cargo test --manifest-path polite/Cargo.toml
  hotbay build polite
  hotbay call polite --text you
"#]]);
    fs::write(root.dir().join("Cargo.toml"), workspace("\"brief\"")).unwrap();
    let text = hotbay(root.dir(), &["new", "brief"]).exits(0).text();
    assert!(!text.contains("workspace"), "{text}");

    hotbay(root.dir(), &["new", "greet"]).exits(1).shows(str![[r#"
$ hotbay new greet
--- stderr
error: plugin not created
  because: cannot create the folder `greet`: File exists (os error [ERRNO])
--- exit code 1
"#]]);
    hotbay(root.dir(), &["new", "Greet"]).exits(1).shows(str![[r#"
$ hotbay new Greet
--- stderr
error: plugin not created
  because: `Greet` is not a valid plugin name; expected a lower-case letter, then at most 63 of `a-z`, `0-9` and `-`
--- exit code 1
"#]]);
}

#[test]
fn new_program_is_in_the_language_that_is_named() {
    let root = Plugins::new();
    let files = |name: &str| {
        let mut files: Vec<_> = fs::read_dir(root.dir().join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        files.join(" ")
    };
    hotbay(root.dir(), &["new", "a", "--process", "--language", "python"]).exits(0).shows(str![[
        r#"
$ hotbay new a --process --language python
created a
next:
  (cd a && python3 -m unittest)
  hotbay build a
  hotbay call a --text you
"#
    ]]);
    let expected =
        ".gitignore README.md hotbay.py plugin.json plugin.py plugin.schema.json test_plugin.py";
    assert_eq!(files("a"), expected);
    hotbay(root.dir(), &["new", "b", "--process", "--language", "node"]).exits(0);
    let expected =
        ".gitignore README.md hotbay.mjs plugin.json plugin.mjs plugin.schema.json plugin_test.mjs";
    assert_eq!(files("b"), expected);
    hotbay(root.dir(), &["new", "e", "--process", "--language", "go"]).exits(0).shows(str![[r#"
$ hotbay new e --process --language go
created e
next:
  (cd e && go test ./...)
  hotbay build e
  hotbay call e --text you
"#]]);
    let expected =
        ".gitignore README.md go.mod hotbay main.go main_test.go plugin.json plugin.schema.json";
    assert_eq!(files("e"), expected);
    let manifest = fs::read_to_string(root.dir().join("e/plugin.json")).unwrap();
    assert!(manifest.contains(r#""command": ["e"]"#), "{manifest}");
    let ignored = fs::read_to_string(root.dir().join("e/.gitignore")).unwrap();
    assert_eq!(ignored, "/target\n/e\n");
    hotbay(root.dir(), &["new", "c", "--process", "--language", "rust"]).exits(0);
    assert!(files("c").contains("Cargo.toml"));
    hotbay(root.dir(), &["new", "d", "--process", "--language", "cobol"]).exits(2).shows(str![[
        r#"
$ hotbay new d --process --language cobol
--- stderr
error: invalid value 'cobol' for '--language <LANGUAGE>'
  [possible values: rust, python, node, go]

For more information, try '--help'.
--- exit code 2
"#
    ]]);
    hotbay(root.dir(), &["new", "d", "--language", "python"]).exits(2).shows(str![[r#"
$ hotbay new d --language python
--- stderr
error: the following required arguments were not provided:
  --process

Usage: hotbay new --process --language <LANGUAGE> <NAME>

For more information, try '--help'.
--- exit code 2
"#]]);
}

#[test]
fn go_program_without_go_is_an_error_with_a_hint() {
    let root = Plugins::new();
    hotbay(root.dir(), &["new", "e", "--process", "--language", "go"]).exits(0);
    let output = command(root.dir(), &["build", "e"]).env("PATH", root.dir()).output();
    run(root.dir(), &["build", "e"], output).exits(1).shows(str![[r#"
$ hotbay build e
--- stderr
error: plugin `e`: `go`, which builds this plugin, was not found in PATH
  hint: install Go 1.19 or later: https://go.dev/doc/install
error: not all plugins were built
  because: 1 plugin failed: e
--- exit code 1
"#]]);
}

#[test]
fn go_program_that_does_not_compile_is_an_error() {
    if !has_interpreter("go") {
        return;
    }
    let root = Plugins::new();
    let build = || {
        let output = command(root.dir(), &["build", "e"]).envs(go_environment()).output();
        run(root.dir(), &["build", "e"], output)
    };
    hotbay(root.dir(), &["new", "e", "--process", "--language", "go"]).exits(0);
    fs::write(root.dir().join("e/more.go"), "package main\n\nvar x int = \"a\"\n").unwrap();
    build().exits(1).shows(str![[r#"
$ hotbay build e
--- stderr
# plugins/e
./more.go:3:13: cannot use "a" [..]
error: plugin `e`: `go build` failed (exit status: [..])
error: not all plugins were built
  because: 1 plugin failed: e
--- exit code 1
"#]]);
    // Another package than `main`.
    for file in ["main.go", "main_test.go", "more.go"] {
        fs::remove_file(root.dir().join("e").join(file)).unwrap();
    }
    fs::write(root.dir().join("e/other.go"), "package other\n").unwrap();
    build().exits(1).shows(str![[r#"
$ hotbay build e
--- stderr
[..]no main packages[..]
error: plugin `e`: `go build` failed (exit status: [..])
error: not all plugins were built
  because: 1 plugin failed: e
--- exit code 1
"#]]);
}

#[test]
fn stdout_that_cannot_be_written_is_an_error() {
    let root = Plugins::new();
    script(root.dir(), "s", "1");
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command(root.dir(), &["build"]).stdout(full).output();
    run(root.dir(), &["build"], output).exits(1).shows(str![[r#"
$ hotbay build
--- stderr
error: not all plugins were built
  because: cannot write to stdout: No space left on device (os error [ERRNO])
--- exit code 1
"#]]);
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
fn watch_builds_a_go_program_whose_source_changes() {
    if !has_interpreter("go") {
        return;
    }
    let root = Plugins::new();
    hotbay(root.dir(), &["new", "e", "--process", "--language", "go"]).exits(0);
    let mut watch = command(root.dir(), &["build", "e", "--out", "out", "--watch"]);
    watch.envs(go_environment());
    let watch = Watch::start_with(watch);
    watch.wait_for("watching 1 plugin");
    let source = root.dir().join("e/main.go");
    let text = fs::read_to_string(&source).unwrap();
    fs::write(&source, text.replace("!\"), nil", "?\"), nil")).unwrap();
    watch.wait_for("built e ");
    watch.wait_for("go and install");
    hotbay(root.dir(), &["call", "e", "--text", "you", "--dir", "out"]).exits(0).shows(str![[r#"
$ hotbay call e --text you --dir out
Hello, you?
\ no newline at the end
"#]]);
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
