//! `hotbay run` as a subprocess: its output, its exit, and what it leaves. Reloads are tested
//! elsewhere; here only their events are checked.

#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};

use hotbay_tests::{LIMIT, Plugins, ProgramFolder, binary, library_file_name, until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running command.
struct Running {
    child: Killed,
    lines: Receiver<String>,
    stderr: JoinHandle<String>,
    /// The folder of its private copies.
    scratch: TempDir,
}

/// A process that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The result of a finished command.
struct Ended {
    code: Option<i32>,
    /// Lines that were not checked yet.
    lines: Vec<String>,
    stderr: String,
    is_tidy: bool,
}

impl Running {
    fn start(plugins: &Plugins, args: &[&str]) -> Self {
        let (mut running, stdout) = Self::without_reader(plugins, args);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test may have failed meanwhile.
                let _ = sender.send(line);
            }
        });
        running.lines = lines;
        running
    }

    #[allow(clippy::disallowed_methods, reason = "the command is a process")]
    fn without_reader(plugins: &Plugins, args: &[&str]) -> (Self, BufReader<ChildStdout>) {
        let scratch = TempDir::with_prefix("hotbay-tests-").unwrap();
        let mut command = Command::new(binary("hotbay-cli", "hotbay"));
        command.arg("run").args(args).arg("--dir").arg(plugins.dir());
        command.env("TMPDIR", scratch.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let (_, lines) = mpsc::channel();
        (Self { child: Killed(child), lines, stderr, scratch }, stdout)
    }

    /// Waits for the first line that contains all these parts.
    #[track_caller]
    fn wait_for_line(&self, parts: &[&str]) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if parts.iter().all(|part| line.contains(part)) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}: {parts:?} not in {seen:#?}"),
            }
        }
    }

    /// Waits for the first event of this type.
    #[track_caller]
    fn wait_for_event(&self, event: &str) -> Value {
        document(&self.wait_for_line(&[&format!(r#""event":"{event}""#)]))
    }

    fn signal(&self, name: &str) {
        kill(name, self.child.0.id());
    }

    #[track_caller]
    fn wait_exit(mut self) -> Ended {
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the command does not exit; output: {lines:#?}")
                }
            }
        }
        let code = until("it has exited", || self.child.0.try_wait().unwrap()).code();
        let stderr = self.stderr.join().unwrap();
        assert!(!stderr.contains("panicked at"), "{stderr}");
        let is_tidy = fs::read_dir(self.scratch.path()).unwrap().next().is_none();
        Ended { code, lines, stderr, is_tidy }
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{:?}\n{}\n{}", self.code, self.lines.join("\n"), self.stderr);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "std cannot send signals")]
fn kill(signal: &str, process: u32) {
    let kill = format!("kill -{signal} {process} 2>&1");
    Command::new("sh").args(["-c", &kill]).output().unwrap();
}

/// Parses an event and removes its timestamp.
fn document(line: &str) -> Value {
    let mut document: Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in: {line}"));
    let timestamp = document.as_object_mut().and_then(|event| event.remove("timestamp"));
    let timestamp = timestamp.as_ref().and_then(Value::as_str).unwrap_or_default();
    assert!(timestamp.contains('T') && timestamp.ends_with('Z'), "{line}");
    document
}

/// Replaces a plugin's config by one rename.
fn replace_config(folder: &Path, config: Value) {
    let manifest = folder.join("plugin.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    value["config"] = config;
    // A copy keeps the mode.
    let new = folder.join(".plugin.json.new");
    fs::copy(&manifest, &new).unwrap();
    fs::write(&new, value.to_string()).unwrap();
    fs::rename(&new, &manifest).unwrap();
}

#[test]
fn run_stops_cleanly_on_each_signal() {
    for signal in ["TERM", "INT", "HUP"] {
        let plugins = Plugins::new();
        plugins.add("one", "faulty").write();
        plugins.add("two", "faulty").set("requires", json!({ "one": "*" })).write();
        let running = Running::start(&plugins, &[]);
        running.wait_for_line(&["loaded       one: version 0.1.0, generation 1"]);
        running.wait_for_line(&["loaded       two: version 0.1.0, generation 1"]);
        running.signal(signal);
        let ended = running.wait_exit();
        assert_eq!(ended.code, Some(0), "{signal}");
        assert!(ended.lines.last().unwrap().ends_with(" stopped"), "{signal}");
        assert!(ended.lines.iter().any(|line| line.contains("closed       two")), "{signal}");
        assert!(!ended.lines.iter().any(|line| line.contains('\x1b')), "colors on a pipe");
        assert!(ended.is_tidy, "a private copy is left");
    }
}

#[test]
fn run_prints_one_json_document_per_event() {
    let plugins = Plugins::new();
    plugins.add("fine", "faulty").write();
    plugins.add("late", "faulty").config(json!({ "error_in": "init" })).write();
    let running = Running::start(&plugins, &["--json"]);
    let mut message =
        [document(&running.wait_for_line(&[])), document(&running.wait_for_line(&[]))];
    message.sort_by_key(|event| event["event"].to_string());
    let [loaded, refused] = message;
    let expected =
        json!({"event": "loaded", "plugin": "fine", "version": "0.1.0", "generation": 1});
    assert_eq!(loaded, expected);
    assert_eq!((&refused["event"], &refused["plugin"]), (&json!("refused"), &json!("late")));
    assert!(refused["reason"].is_string());
    running.signal("TERM");
    let ended = running.wait_exit();
    let message: Vec<_> = ended.lines.iter().map(|line| document(line)).collect();
    let names: Vec<_> = message.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["retired", "closed", "stopped"]);
    assert_eq!(message[1]["leaked_bytes"], 0);
    assert_eq!((ended.code, ended.stderr.as_str(), ended.is_tidy), (Some(0), "", true));
}

#[test]
fn second_signal_abandons_hanging_shutdown() {
    let plugins = Plugins::new();
    plugins.add("slow", "faulty").config(json!({ "hang_in": "shutdown" })).write();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut running = Running::start(&plugins, &[]);
        running.wait_for_line(&["loaded"]);
        running.signal(signal);
        running.wait_for_line(&["retired"]);
        until("it has exited", || {
            running.signal(signal);
            running.child.0.try_wait().unwrap()
        });
        assert_eq!(running.wait_exit().code, Some(code));
    }
}

#[test]
fn closed_reader_ends_idle_run_cleanly() {
    let plugins = Plugins::new();
    plugins.add("one", "faulty").write();
    let (running, mut stdout) = Running::without_reader(&plugins, &[]);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("loaded"), "{line}");
    drop(stdout);
    let ended = running.wait_exit();
    assert_eq!((ended.code, ended.is_tidy), (Some(0), true));
}

#[test]
fn run_exits_if_no_plugin_loads() {
    let plugins = Plugins::new();
    let ended = Running::start(&plugins, &[]).wait_exit();
    assert_eq!(ended.code, Some(1));
    let error = "error: nothing to run: no plugins found in ";
    assert!(ended.stderr.starts_with(error) && ended.stderr.contains("\n  hint: "));
    plugins.add("late", "faulty").config(json!({ "panic_in": "init" })).write();
    let ended = Running::start(&plugins, &[]).wait_exit();
    assert_eq!((ended.code, ended.is_tidy), (Some(1), true));
    assert!(ended.lines[0].contains("refused      late: "), "the reason is reported as an event");
}

#[test]
fn run_reports_promoted_and_failed_reloads() {
    let plugins = Plugins::new();
    let folder = plugins.add("one", "faulty").write();
    let running = Running::start(&plugins, &["--json", "--watch", "--poll-ms", "20"]);
    running.wait_for_event("loaded");
    replace_config(&folder, json!({ "note": "new" }));
    let promoted = running.wait_for_event("promoted");
    let expected = json!({
        "event": "promoted", "plugin": "one", "version": "0.1.0", "generation": 2, "from": 1,
    });
    assert_eq!(promoted, expected);
    running.wait_for_event("retired");
    assert_eq!(running.wait_for_event("closed")["generation"], 1);

    replace_config(&folder, json!({ "error_in": "init" }));
    let rolled_back = running.wait_for_event("rolled_back");
    assert_eq!((&rolled_back["step"], &rolled_back["generation"]), (&json!("init"), &json!(2)));
    assert!(rolled_back["reason"].as_str().unwrap().contains("generation 2 keeps serving"));

    replace_config(&folder, json!({ "note": "fixed" }));
    assert_eq!(running.wait_for_event("promoted")["from"], 2);
    running.signal("TERM");
    let ended = running.wait_exit();
    assert_eq!((ended.code, ended.is_tidy), (Some(0), true));
}

#[test]
fn run_prints_retire_reason_and_recovery() {
    let plugins = Plugins::new();
    let folder = plugins.add("one", "faulty").write();
    plugins.add("two", "faulty").write();
    let running = Running::start(&plugins, &["--watch", "--poll-ms", "20"]);
    for _ in 0..2 {
        running.wait_for_line(&["loaded"]);
    }
    replace_config(&folder, json!({ "note": "new" }));
    running.wait_for_line(&["retired      one: generation 1; replaced by generation 2"]);
    replace_config(&folder, json!({ "error_in": "init" }));
    running.wait_for_line(&["rolled back  one: generation 2 keeps serving"]);
    replace_config(&folder, json!({ "note": "fixed" }));
    running.wait_for_line(&["promoted     one: ", "; recovered from a failed reload"]);
    fs::remove_dir_all(&folder).unwrap();
    running.wait_for_line(&["retired      one: ", "; its plugin.json was removed"]);
    running.signal("TERM");
    running.wait_for_line(&["retired      two: generation 1; the host is stopping"]);
    assert_eq!(running.wait_exit().code, Some(0));
}

#[test]
fn run_with_watch_waits_for_first_plugin() {
    let plugins = Plugins::new();
    let running = Running::start(&plugins, &["--watch", "--poll-ms", "20"]);
    plugins.add("one", "faulty").write();
    running.wait_for_line(&["loaded       one: version 0.1.0"]);
    running.signal("INT");
    assert_eq!(running.wait_exit().code, Some(0));
}

#[test]
fn run_reports_process_exit_and_restart() {
    for json in [true, false] {
        let plugins = Plugins::new();
        let journal = plugins.dir().join("journal");
        let program = ProgramFolder::new(plugins.dir(), "apart").built("served", "served");
        program.set("package", "served").config(json!({ "journal": journal })).install();
        let running = Running::start(&plugins, if json { &["--json"] } else { &[] });
        running.wait_for_line(&["loaded"]);
        let process = fs::read_to_string(&journal).unwrap();
        let process: u32 = process.split(' ').next().unwrap().parse().unwrap();
        kill("KILL", process);
        if json {
            let exited = running.wait_for_event("child_exited");
            assert_eq!((&exited["plugin"], &exited["generation"]), (&json!("apart"), &json!(1)));
            assert_eq!(exited["pid"], process);
            assert!(exited["reason"].as_str().unwrap().contains("SIGKILL"), "{exited}");
            let restarted = running.wait_for_event("restarted");
            assert_eq!(
                (&restarted["plugin"], &restarted["generation"]),
                (&json!("apart"), &json!(1))
            );
            assert!(restarted["pid"].is_u64() && restarted["pid"] != process, "{restarted}");
            assert!(restarted["after_ms"].is_u64(), "{restarted}");
        } else {
            running.wait_for_line(&[
                "child exited  apart: ",
                &format!("generation 1, process {process}"),
            ]);
            running.wait_for_line(&["SIGKILL"]);
            running.wait_for_line(&[
                "restarted    apart: ",
                "generation 1, process ",
                "after ",
                " ms",
            ]);
        }
        running.signal("TERM");
        let ended = running.wait_exit();
        assert_eq!((ended.code, ended.is_tidy), (Some(0), true));
    }
}

fn draft(drafts: &Plugins, answers: &str) -> PathBuf {
    let draft = drafts.add("echo", "faulty").config(json!({ "answers": answers }));
    draft.bytes(|bytes| bytes.extend_from_slice(answers.as_bytes())).write()
}

fn library() -> String {
    library_file_name("faulty")
}

/// Runs the command in its own working directory.
#[test]
#[allow(clippy::disallowed_methods, reason = "the command is a process")]
fn command_watches_relative_directories() {
    for (here, dir) in [("", "x"), ("", "./x"), ("y", "../x"), ("x", ".")] {
        let scratch = TempDir::with_prefix("hotbay-tests-").unwrap();
        let drafts = Plugins::new();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("x")).unwrap();
        fs::create_dir(at("y")).unwrap();
        fs::rename(draft(&drafts, "old"), at("x/echo")).unwrap();
        let mut command = Command::new(binary("hotbay-cli", "hotbay"));
        command.args(["run", "--watch", "--json", "--dir", dir]).current_dir(at(here));
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test may have failed meanwhile.
                let _ = sender.send(line);
            }
        });
        let wait_for_event = |event: &str| {
            let expected = format!(r#""event":"{event}""#);
            while !lines.recv_timeout(LIMIT).map_err(|_| event).unwrap().contains(&expected) {}
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for_event("loaded");
            let draft = draft(&drafts, "new");
            fs::rename(draft.join("plugin.json"), at("x/echo/plugin.json")).unwrap();
            wait_for_event("rolled_back");
            fs::rename(draft.join(library()), at("x/echo").join(library())).unwrap();
            wait_for_event("promoted");
        }));
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        assert!(checked.is_ok(), "`{dir}` in `{here}`");
    }
}
