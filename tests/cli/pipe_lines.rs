//! `hotbay pipe --lines`: order, failed lines, and early ends. The command runs as a subprocess,
//! fed and stopped as a shell does.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};

use hotbay_tests::{Plugins, until};
use serde_json::json;
use snapbox::str;
use tempfile::TempDir;

use crate::command::{command, examples, run, with_input};

#[test]
fn failed_line_is_reported_with_its_number() {
    let plugins = examples();
    let args = ["pipe", "filter", "--lines"];
    let run = with_input(plugins.dir(), &args, b"[1]\nno\n[3]\n").exits(1);
    run.shows(str![[r#"
$ printf '[1]\nno\n[3]\n' | hotbay pipe filter --lines
[1]
[3]
--- stderr
error: line 2: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
--- exit code 1
"#]]);
    let args = ["pipe", "filter", "--lines", "--json"];
    with_input(plugins.dir(), &args, b"[1]\nno\n").exits(1).shows(str![[r#"
$ printf '[1]\nno\n' | hotbay pipe filter --lines --json
{"content_type":"application/json","generation":1,"line":1,"text":"[1]"}
{"error":{"code":400,"details":null,"generation":1,"hint":null,"kind":"plugin","location":null,"message":"the input is not JSON: expected ident at line 1 column 2","plugin":"filter","retryable":false,"step":null},"line":2}
--- exit code 1
"#]]);
}

#[test]
fn closed_reader_ends_pipe_silently() {
    let plugins = examples();
    let mut child = command(plugins.dir(), &["pipe", "transform", "--lines"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(b"a\n").unwrap();
    let mut first = [0; 2];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"A\n", "each reply is written before the next line is read");
    drop(stdout);
    // Until it notices that the reader is gone.
    while stdin.write_all(b"more\n").is_ok() {}
    let run = run(plugins.dir(), &["pipe"], child.wait_with_output()).exits(0);
    assert_eq!(run.stderr, "");
}

/// Returns input for a filter that keeps positive numbers, with some lines that are not arrays, and
/// the expected output.
fn numbered(count: u32, is_bad: impl Fn(u32) -> bool) -> (String, String) {
    let (mut input, mut output) = (String::new(), String::new());
    for number in 1..=count {
        if is_bad(number) {
            writeln!(input, "no {number}").unwrap();
        } else {
            writeln!(input, "[{number}]").unwrap();
            writeln!(output, "[{number}]").unwrap();
        }
    }
    (input, output)
}

#[test]
fn many_lines_keep_their_order() {
    let plugins = examples();
    let (input, output) = numbered(200_000, |number| number % 10_000 == 7);
    let args = ["pipe", "filter", "transform", "--lines"];
    let run = with_input(plugins.dir(), &args, input.as_bytes()).exits(1);
    assert!(run.text() == output, "{} lines, expected 199,980", run.text().lines().count());
    let message: Vec<_> = run.stderr.lines().collect();
    assert_eq!(message.len(), 20, "{message:#?}");
    let first = "error: line 7: plugin `filter` returned an error: the input is not JSON";
    assert!(message[0].starts_with(first) && message[0].ends_with("(code 400)"), "{}", message[0]);
    assert!(message[19].starts_with("error: line 190007: "), "{}", message[19]);
}

#[test]
fn many_failed_lines_are_summarized() {
    let plugins = examples();
    let (input, _) = numbered(1_300, |_| true);
    let args = ["pipe", "filter", "--lines"];
    let run = with_input(plugins.dir(), &args, input.as_bytes()).exits(1);
    run.shows(str![[r#"
$ hotbay pipe filter --lines < input
--- stderr
error: line 1: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 2: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 3: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 4: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 5: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 6: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 7: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 8: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 9: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 10: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 11: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 12: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 13: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 14: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 15: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 16: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 17: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 18: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 19: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: line 20: plugin `filter` returned an error: the input is not JSON: expected ident at line 1 column 2 (code 400)
error: 1,280 more lines failed: 1,280 with code 400 of plugin `filter`, first line 21
--- exit code 1
"#]]);
}

#[test]
fn on_error_option_selects_handling_of_failed_lines() {
    let plugins = examples();
    let run = |on_error: &str| {
        let args = ["pipe", "filter", "--lines", "--on-error", on_error];
        with_input(plugins.dir(), &args, b"[1]\n a \xff\r\n[3]\nb\n").exits(1)
    };
    run("skip").shows(str![[r#"
$ printf '[1]\n a \xff\r\n[3]\nb\n' | hotbay pipe filter --lines --on-error skip
[1]
[3]
--- stderr
error: line 2: plugin `filter` returned an error: invalid UTF-8 at byte 3 (code 400)
error: line 4: plugin `filter` returned an error: the input is not JSON: expected value at line 1 column 1 (code 400)
--- exit code 1
"#]]);
    let kept = run("keep");
    assert_eq!(kept.stdout, b"[1]\n a \xff\n[3]\nb\n");
    kept.shows(str![[r#"
$ printf '[1]\n a \xff\r\n[3]\nb\n' | hotbay pipe filter --lines --on-error keep
[1]
 a �
[3]
b
--- stderr
error: line 2: plugin `filter` returned an error: invalid UTF-8 at byte 3 (code 400)
error: line 4: plugin `filter` returned an error: the input is not JSON: expected value at line 1 column 1 (code 400)
--- exit code 1
"#]]);
    run("stop").shows(str![[r#"
$ printf '[1]\n a \xff\r\n[3]\nb\n' | hotbay pipe filter --lines --on-error stop
[1]
--- stderr
error: line 2: plugin `filter` returned an error: invalid UTF-8 at byte 3 (code 400)
error: stopped at line 2; lines read but not processed: 2
--- exit code 1
"#]]);

    let args = ["pipe", "filter", "--on-error", "stop"];
    with_input(plugins.dir(), &args, b"").exits(2).shows(str![[r#"
$ printf '' | hotbay pipe filter --on-error stop
--- stderr
error: the following required arguments were not provided:
  --lines

Usage: hotbay pipe --lines --on-error <WHAT> <PLUGIN>...

For more information, try '--help'.
--- exit code 2
"#]]);
}

#[test]
fn json_output_keeps_failed_lines_in_place() {
    let plugins = examples();
    let run = |on_error: &str| {
        let args = ["pipe", "filter", "--lines", "--json", "--on-error", on_error];
        with_input(plugins.dir(), &args, b"[1]\nno\n[3]\n").exits(1)
    };
    run("keep").shows(str![[r#"
$ printf '[1]\nno\n[3]\n' | hotbay pipe filter --lines --json --on-error keep
{"content_type":"application/json","generation":1,"line":1,"text":"[1]"}
{"error":{"code":400,"details":null,"generation":1,"hint":null,"kind":"plugin","location":null,"message":"the input is not JSON: expected ident at line 1 column 2","plugin":"filter","retryable":false,"step":null},"line":2,"text":"no"}
{"content_type":"application/json","generation":1,"line":3,"text":"[3]"}
--- exit code 1
"#]]);
    run("stop").shows(str![[r#"
$ printf '[1]\nno\n[3]\n' | hotbay pipe filter --lines --json --on-error stop
{"content_type":"application/json","generation":1,"line":1,"text":"[1]"}
{"error":{"code":400,"details":null,"generation":1,"hint":null,"kind":"plugin","location":null,"message":"the input is not JSON: expected ident at line 1 column 2","plugin":"filter","retryable":false,"step":null},"line":2}
{"done":2,"failed":1,"not_done":1,"stopped":"failed_line"}
--- exit code 1
"#]]);
}

#[test]
fn line_over_limit_fails_alone() {
    let plugins = examples();
    let mut input = b"a\n".to_vec();
    input.resize(input.len() + (64 << 20) + 1, b'x');
    input.extend_from_slice(b"\nb\n");
    let args = ["pipe", "transform", "--lines", "--on-error", "keep"];
    let run = with_input(plugins.dir(), &args, &input).exits(1);
    run.shows(str![[r#"
$ hotbay pipe transform --lines --on-error keep < input
A

B
--- stderr
error: line 2: the line exceeds the limit of 67108864 bytes
--- exit code 1
"#]]);
}

#[test]
fn panicking_and_hanging_lines_fail_alone() {
    let plugins = Plugins::new();
    plugins.add("scripted", "faulty").config(json!({ "scripted": true })).write();
    let mut input = String::new();
    for _ in 0..10 {
        writeln!(input, "{}", json!({ "panic_in": "execute" })).unwrap();
    }
    writeln!(input, "{}", json!({ "hang_in": "execute" })).unwrap();
    writeln!(input, "{}", json!({ "answers": "fine" })).unwrap();
    let args = ["pipe", "scripted", "--lines", "--dir", ".", "--deadline", "2s"];
    let run = with_input(plugins.dir(), &args, input.as_bytes()).exits(1);
    run.shows(str![[r#"
$ hotbay pipe scripted --lines --dir . --deadline 2s < input
fine
--- stderr
error: line 1: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 2: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 3: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 4: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 5: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 6: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 7: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 8: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 9: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 10: plugin `scripted` failed: panicked: in execute, on request (at tests/fixtures/faulty/src/behavior.rs:[POSITION])
error: line 11: plugin `scripted` did not answer before the deadline; the call is still running, and its result is discarded
--- exit code 1
"#]]);
}

/// A command whose input stays open.
struct Fed {
    child: Child,
    scratch: TempDir,
}

impl Fed {
    fn start(plugins: &Plugins, args: &[&str]) -> Self {
        let scratch = TempDir::with_prefix("hotbay-tests-").unwrap();
        let mut command = command(plugins.dir(), args);
        command.env("TMPDIR", scratch.path()).stdin(Stdio::piped());
        Self { child: command.spawn().unwrap(), scratch }
    }

    #[allow(clippy::disallowed_methods, reason = "std cannot send signals")]
    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        std::process::Command::new("sh").args(["-c", &kill]).output().unwrap();
    }

    /// Waits for its exit, and returns exit code and stderr; asserts that nothing is left.
    fn wait_exit(mut self) -> (Option<i32>, String) {
        let code = until("it has exited", || self.child.try_wait().unwrap()).code();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert!(!stderr.contains("panicked at"), "{stderr}");
        let left = std::fs::read_dir(self.scratch.path()).unwrap().count();
        assert_eq!(left, 0, "private copies are left");
        (code, stderr)
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        // The command may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(unix)]
#[test]
fn signal_ends_endless_input_with_complete_prefix() {
    for signal in ["INT", "TERM"] {
        let plugins = examples();
        let args = ["pipe", "transform", "transform", "--lines"];
        let mut fed = Fed::start(&plugins, &args);
        let mut stdin = fed.child.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || {
            // Until the command stops reading.
            for number in 1.. {
                if writeln!(stdin, "line {number}").is_err() {
                    return;
                }
            }
        });
        let lines = BufReader::new(fed.child.stdout.take().unwrap()).lines();
        let mut count = 0_u32;
        for line in lines.map(Result::unwrap) {
            count += 1;
            assert_eq!(line, format!("LINE {count}"));
            if count == 1_000 {
                fed.signal(signal);
            }
        }
        let (code, stderr) = fed.wait_exit();
        feeder.join().unwrap();
        assert_eq!(code, Some(1));
        let message: Vec<_> = stderr.lines().collect();
        let note = "note: finishing running calls, at most 10 s; a second signal exits at once";
        assert_eq!(message[0], note);
        let done = message[1].replace(',', "");
        let start = format!("error: stopped after {count} lines; lines read but not processed: ");
        assert!(done.starts_with(&start), "{done}");
        assert_eq!(message.len(), 2, "{message:#?}");
    }
}

#[cfg(unix)]
#[test]
fn signal_ends_wait_for_input() {
    let plugins = examples();
    let mut fed = Fed::start(&plugins, &["pipe", "transform", "--lines"]);
    let mut stdin = fed.child.stdin.take().unwrap();
    stdin.write_all(b"a\nrest").unwrap();
    let mut stdout = fed.child.stdout.take().unwrap();
    let mut first = [0; 2];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"A\n", "an incomplete next line is not awaited");
    fed.signal("INT");
    let (code, stderr) = fed.wait_exit();
    assert_eq!(code, Some(1));
    assert!(
        stderr.ends_with("error: stopped after 1 line; lines read but not processed: 0\n"),
        "{stderr}"
    );

    let fed = Fed::start(&plugins, &["pipe", "transform"]);
    until("it has started", || std::fs::read_dir(fed.scratch.path()).unwrap().next().map(drop));
    fed.signal("TERM");
    let (code, stderr) = fed.wait_exit();
    assert_eq!((code, stderr.as_str()), (Some(1), "error: stopped before the reply arrived\n"));
}

#[cfg(unix)]
#[test]
fn second_signal_abandons_hanging_line() {
    let plugins = Plugins::new();
    let entered = plugins.dir().join("entered");
    let config = json!({ "hang_in": "execute", "entered": entered.to_str().unwrap() });
    plugins.add("stuck", "faulty").config(config).write();
    let mut fed = Fed::start(&plugins, &["pipe", "stuck", "--lines", "--dir", "."]);
    let mut stdin = fed.child.stdin.take().unwrap();
    stdin.write_all(b"a\n").unwrap();
    until("it hangs", || entered.exists().then_some(()));
    let code = until("it has exited", || {
        fed.signal("INT");
        fed.child.try_wait().unwrap()
    });
    assert_eq!(code.code(), Some(130));
}
