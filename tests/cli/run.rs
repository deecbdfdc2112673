//! `hotbay run` as a subprocess: its output, its exit, and what it leaves. Reloads are tested
//! elsewhere; here only their events are checked.

#![cfg(unix)]

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use hotbay_tests::{LIMIT, Plugins, ProgramFolder, library_file_name, until};
use serde_json::{Value, json};
use snapbox::str;
use tempfile::TempDir;

use crate::command::{Run, command, run};

/// A running command.
struct Running {
    args: Vec<String>,
    dir: PathBuf,
    child: Killed,
    lines: Receiver<String>,
    /// All lines so far.
    seen: RefCell<Vec<String>>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: JoinHandle<()>,
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
    run: Run,
    /// Lines that were not checked yet.
    lines: Vec<String>,
    /// Remaining private copies.
    left: Vec<PathBuf>,
}

impl Running {
    fn start(plugins: &Plugins, args: &[&str]) -> Self {
        let dir = plugins.dir().to_str().unwrap();
        Self::start_in(plugins.dir(), &[&["run"], args, &["--dir", dir]].concat())
    }

    /// Runs the command in this working directory.
    fn start_in(here: &Path, args: &[&str]) -> Self {
        let (mut running, stdout) = Self::without_reader(here, args);
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

    fn without_reader(here: &Path, args: &[&str]) -> (Self, BufReader<ChildStdout>) {
        let scratch = TempDir::with_prefix("hotbay-tests-").unwrap();
        let mut command = command(here, args);
        let mut child = command.env("TMPDIR", scratch.path()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = Arc::new(Mutex::new(String::new()));
        let (lines, text) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&stderr));
        let stderr_reader = thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                text.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let (_, lines) = mpsc::channel();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (dir, child, seen) = (here.to_owned(), Killed(child), RefCell::default());
        (Self { args, dir, child, lines, seen, stderr, stderr_reader, scratch }, stdout)
    }

    /// Waits for the first line that contains all these parts.
    #[track_caller]
    fn wait_for_line(&self, parts: &[&str]) -> String {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => self.seen.borrow_mut().push(line.clone()),
                Err(error) => panic!("{error}: {parts:?} not in {:#?}", self.seen.borrow()),
            }
            let seen = self.seen.borrow();
            let line = seen.last().unwrap();
            if parts.iter().all(|part| line.contains(part)) {
                return line.clone();
            }
        }
    }

    /// Waits for the first event of this type.
    #[track_caller]
    fn wait_for_event(&self, event: &str) -> Value {
        document(&self.wait_for_line(&[&format!(r#""event":"{event}""#)]))
    }

    /// Waits until it reports on stderr how many plugins it has loaded.
    #[track_caller]
    fn wait_started(&self) {
        let is_started = || self.stderr.lock().unwrap().contains("Ctrl-C").then_some(());
        until("it has started", is_started);
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
        let status = until("it has exited", || self.child.0.try_wait().unwrap());
        self.stderr_reader.join().unwrap();
        let stderr = self.stderr.lock().unwrap().clone().into_bytes();
        let left = fs::read_dir(self.scratch.path()).unwrap();
        let left = left.map(|entry| entry.unwrap().path()).collect();
        let all = self.seen.take().into_iter().chain(lines.iter().cloned());
        let stdout = all.map(|line| line + "\n").collect::<String>().into_bytes();
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        let run = run(&self.dir, &args, Ok(Output { status, stdout, stderr }));
        Ended { run, lines, left }
    }
}

impl Ended {
    /// Checks the exit code, and that nothing is left.
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        let Self { run, lines, left } = self;
        let run = run.exits(code);
        assert_eq!(left, [""; 0].map(PathBuf::from), "private copies are left: {}", run.text());
        Self { run, lines, left }
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
        running.wait_started();
        running.signal(signal);
        running.wait_exit().exits(0).run.shows(str![[r#"
$ hotbay run --dir [ROOT]
[TIME] loaded       one: version [VER], generation 1
[TIME] loaded       two: version [VER], generation 1
[TIME] retired      two: generation 1; the host is stopping
[TIME] closed       two: generation 1
[TIME] retired      one: generation 1; the host is stopping
[TIME] closed       one: generation 1
[TIME] stopped
--- stderr
2 plugins loaded; press Ctrl-C to stop
note: stopping; a second signal exits at once
"#]]);
    }
}

#[test]
fn run_prints_one_json_document_per_event() {
    let plugins = Plugins::new();
    plugins.add("fine", "faulty").write();
    // Loads after the other one.
    let late = plugins.add("late", "faulty").config(json!({ "error_in": "init" }));
    late.set("requires", json!({ "fine": "*" })).write();
    let running = Running::start(&plugins, &["--json"]);
    for _ in 0..2 {
        document(&running.wait_for_line(&[]));
    }
    running.signal("TERM");
    let ended = running.wait_exit();
    for line in &ended.lines {
        document(line);
    }
    ended.exits(0).run.shows(str![[r#"
$ hotbay run --json --dir [ROOT]
{"event":"loaded","generation":1,"plugin":"fine","timestamp":"[TIMESTAMP]","version":"[VER]"}
{"event":"refused","hint":null,"plugin":"late","reason":"plugin `late` failed to load at step `init`: in init, on request (code 500)","timestamp":"[TIMESTAMP]"}
{"event":"retired","generation":1,"plugin":"fine","timestamp":"[TIMESTAMP]"}
{"event":"closed","generation":1,"leaked_bytes":0,"plugin":"fine","timestamp":"[TIMESTAMP]"}
{"event":"stopped","timestamp":"[TIMESTAMP]"}
"#]]);
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
        assert_eq!(running.wait_exit().run.code, Some(code));
    }
}

#[test]
fn closed_reader_ends_idle_run_cleanly() {
    let plugins = Plugins::new();
    plugins.add("one", "faulty").write();
    let (running, mut stdout) = Running::without_reader(plugins.dir(), &["run", "--dir", "."]);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("loaded"), "{line}");
    drop(stdout);
    running.wait_exit().exits(0);
}

#[test]
fn run_exits_if_no_plugin_loads() {
    let plugins = Plugins::new();
    Running::start(&plugins, &[]).wait_exit().exits(1).run.shows(str![[r#"
$ hotbay run --dir [ROOT]
[TIME] stopped
--- stderr
error: nothing to run: no plugins found in `[ROOT]`
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
--- exit code 1
"#]]);
    plugins.add("late", "faulty").config(json!({ "panic_in": "init" })).write();
    Running::start(&plugins, &[]).wait_exit().exits(1).run.shows(str![[r#"
$ hotbay run --dir [ROOT]
[TIME] refused      late: failed to load at step `init`: panicked: in init, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
[TIME] stopped
--- exit code 1
"#]]);
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
    running.wait_exit().exits(0);
}

#[test]
fn run_prints_retire_reason_and_recovery() {
    let plugins = Plugins::new();
    // The requirement determines the order of the loads.
    let folder = plugins.add("one", "faulty").set("requires", json!({ "two": "*" })).write();
    plugins.add("two", "faulty").write();
    let running = Running::start(&plugins, &["--watch", "--poll-ms", "20"]);
    running.wait_started();
    replace_config(&folder, json!({ "note": "new" }));
    running.wait_for_line(&["retired      one: generation 1; replaced by generation 2"]);
    running.wait_for_line(&["closed"]);
    replace_config(&folder, json!({ "error_in": "init" }));
    running.wait_for_line(&["rolled back  one: generation 2 keeps serving"]);
    replace_config(&folder, json!({ "note": "fixed" }));
    running.wait_for_line(&["promoted     one: ", "; recovered from a failed reload"]);
    running.wait_for_line(&["closed"]);
    fs::remove_dir_all(&folder).unwrap();
    running.wait_for_line(&["retired      one: ", "; its plugin.json was removed"]);
    running.wait_for_line(&["closed"]);
    running.signal("TERM");
    running.wait_exit().exits(0).run.shows(str![[r#"
$ hotbay run --watch --poll-ms 20 --dir [ROOT]
[TIME] loaded       two: version [VER], generation 1
[TIME] loaded       one: version [VER], generation 1
[TIME] promoted     one: version [VER], generation 2 (was 1); [DURATION] after its files were written
[TIME] retired      one: generation 1; replaced by generation 2
[TIME] closed       one: generation 1
[TIME] rolled back  one: generation 2 keeps serving; failed at step `init`
                      in init, on request (code 500)
[TIME] promoted     one: version [VER], generation 4 (was 2); recovered from a failed reload; [DURATION] after its files were written
[TIME] retired      one: generation 2; replaced by generation 4
[TIME] closed       one: generation 2
[TIME] retired      one: generation 4; its plugin.json was removed
[TIME] closed       one: generation 4
[TIME] retired      two: generation 1; the host is stopping
[TIME] closed       two: generation 1
[TIME] stopped
--- stderr
2 plugins loaded; watching `[ROOT]`; press Ctrl-C to stop
note: stopping; a second signal exits at once
"#]]);
}

#[test]
fn edited_program_is_sealed_and_swapped_with_dev() {
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "script").set("package", "program").install();
    let read = || fs::read_to_string(folder.join("plugin.json")).unwrap();
    let manifest = || serde_json::from_str::<Value>(&read()).unwrap();
    let program = folder.join(manifest()["command"][0].as_str().unwrap());
    let before = manifest()["sha256"].clone();
    let args = ["--watch", "--dev", "--poll-ms", "20", "--json"];
    let running = Running::start(&plugins, &args);
    running.wait_for_event("loaded");
    let edited = [&fs::read(&program).unwrap()[..], b"\n# edited\n"].concat();
    fs::write(&program, edited).unwrap();
    running.wait_for_event("promoted");
    assert_ne!(manifest()["sha256"], before);
    running.signal("TERM");
    let ended = running.wait_exit().exits(0);
    assert!(
        ended.run.stderr.contains("warning: `--dev` seals each program"),
        "{}",
        ended.run.stderr
    );
    command(plugins.dir(), &["run", "--dev"])
        .output()
        .map(|output| assert_eq!(output.status.code(), Some(2)))
        .unwrap();
}

#[test]
fn run_with_watch_waits_for_first_plugin() {
    let plugins = Plugins::new();
    let running = Running::start(&plugins, &["--watch", "--poll-ms", "20"]);
    plugins.add("one", "faulty").write();
    running.wait_for_line(&["loaded       one: version 0.1.0"]);
    running.signal("INT");
    running.wait_exit().exits(0);
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
        if !json {
            running.wait_started();
        }
        running.signal("TERM");
        running.wait_exit().exits(0).run.shows(if json { str![[r#"
$ hotbay run --json --dir [ROOT]
{"event":"loaded","generation":1,"plugin":"apart","timestamp":"[TIMESTAMP]","version":"[VER]"}
{"event":"child_exited","generation":1,"hint":"check the kernel log","pid":[PROCESS],"plugin":"apart","reason":"`[ROOT]/apart/program` was killed by SIGKILL\nanother process killed it, or it exceeded the available or permitted memory\nno output on stderr","timestamp":"[TIMESTAMP]"}
{"after_ms":[MS],"event":"restarted","generation":1,"pid":[PROCESS],"plugin":"apart","timestamp":"[TIMESTAMP]"}
{"event":"retired","generation":1,"plugin":"apart","timestamp":"[TIMESTAMP]"}
{"event":"closed","generation":1,"leaked_bytes":null,"plugin":"apart","timestamp":"[TIMESTAMP]"}
{"event":"stopped","timestamp":"[TIMESTAMP]"}
"#]] } else { str![[r#"
$ hotbay run --dir [ROOT]
[TIME] loaded       apart: version [VER], generation 1
[TIME] child exited  apart: generation 1, process [PROCESS]
                      `[ROOT]/apart/program` was killed by SIGKILL
                      another process killed it, or it exceeded the available or permitted memory
                      no output on stderr
                      hint: check the kernel log
[TIME] restarted    apart: generation 1, process [PROCESS], after [DURATION]
[TIME] retired      apart: generation 1; the host is stopping
[TIME] closed       apart: generation 1
[TIME] stopped
--- stderr
1 plugin loaded; press Ctrl-C to stop
note: stopping; a second signal exits at once
"#]] });
    }
}

fn draft(drafts: &Plugins, answers: &str) -> PathBuf {
    let draft = drafts.add("echo", "faulty").config(json!({ "answers": answers }));
    draft.bytes(|bytes| bytes.extend_from_slice(answers.as_bytes())).write()
}

fn library() -> String {
    library_file_name("faulty")
}

#[test]
fn command_watches_relative_directories() {
    for (here, dir) in [("", "x"), ("", "./x"), ("y", "../x"), ("x", ".")] {
        let scratch = TempDir::with_prefix("hotbay-tests-").unwrap();
        let drafts = Plugins::new();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("x")).unwrap();
        fs::create_dir(at("y")).unwrap();
        fs::rename(draft(&drafts, "old"), at("x/echo")).unwrap();
        let args = ["run", "--watch", "--json", "--dir", dir];
        let running = Running::start_in(&at(here), &args);
        running.wait_for_event("loaded");
        let draft = draft(&drafts, "new");
        fs::rename(draft.join("plugin.json"), at("x/echo/plugin.json")).unwrap();
        running.wait_for_event("rolled_back");
        fs::rename(draft.join(library()), at("x/echo").join(library())).unwrap();
        running.wait_for_event("promoted");
    }
}
