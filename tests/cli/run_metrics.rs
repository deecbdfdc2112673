//! `hotbay run --metrics` as a subprocess: its page, refused requests, and its end together with
//! the command.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStderr, ChildStdout, Command};

use hotbay_tests::{LIMIT, Plugins, ProgramFolder, until};
use serde_json::{Value, json};
use snapbox::str;

use crate::command::{Run, command, hotbay};

/// A running command that serves a page.
struct Serving {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
    /// Host and port.
    address: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `hotbay run` to its end.
fn run_to_end(plugins: &Plugins, args: &[&str]) -> Run {
    hotbay(plugins.dir(), &[&["run", "--dir", "."], args].concat())
}

impl Serving {
    #[track_caller]
    fn start(plugins: &Plugins, args: &[&str]) -> Self {
        let args = [&["run", "--dir", "."], args].concat();
        let mut child = command(plugins.dir(), &args).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Self { child, stdout, stderr, address: String::new() };
        let mut line = String::new();
        serving.stderr.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("metrics: http://");
        let address = address.and_then(|rest| rest.strip_suffix("/metrics"));
        serving.address = address.unwrap_or_else(|| panic!("no address in {line}")).to_owned();
        serving
    }

    /// Waits until its plugin serves.
    #[track_caller]
    fn is_up(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.contains("loaded"), "{line}");
    }

    fn event(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in: {line}"))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Returns status line, headers and body.
    fn get(&self, method: &str, path: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[track_caller]
    fn shows(&self, expected: &[&str]) {
        let page = self.get("GET", "/metrics");
        for expected in expected {
            assert!(page.lines().any(|line| line == *expected), "{expected} is not in\n{page}");
        }
    }

    /// Stops it by a signal, and returns its exit code and the remaining output.
    #[allow(clippy::disallowed_methods, reason = "std cannot send signals")]
    fn wait_exit(mut self) -> (Option<i32>, String, String) {
        let kill = format!("kill -TERM {} 2>&1", self.child.id());
        Command::new("sh").args(["-c", &kill]).output().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.stderr.read_to_string(&mut err).unwrap();
        (until("it has exited", || self.child.try_wait().unwrap()).code(), out, err)
    }
}

#[test]
fn metrics_page_shows_counters_beside_event_stream() {
    let plugins = Plugins::new();
    plugins.add("one", "faulty").write();
    let mut serving = Serving::start(&plugins, &["--json", "--metrics", "127.0.0.1:0"]);
    assert!(serving.address.starts_with("127.0.0.1:"), "{}", serving.address);
    serving.is_up();
    serving.shows(&[
        "HTTP/1.1 200 OK",
        "content-type: text/plain; version=0.0.4; charset=utf-8",
        "# HELP hotbay_calls_total calls, regardless of their outcome",
        "# TYPE hotbay_calls_total counter",
        r#"hotbay_calls_total{plugin="one"} 0"#,
        "# TYPE hotbay_generation gauge",
        r#"hotbay_generation{plugin="one"} 1"#,
        "hotbay_plugins 1",
        "hotbay_kept_libraries 0",
    ]);
    let (code, out, err) = serving.wait_exit();
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events: Vec<_> = events.map(|event| event["event"].clone()).collect();
    assert_eq!(events, ["retired", "closed", "stopped"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
}

#[test]
#[cfg(target_os = "linux")]
fn metrics_page_shows_what_a_process_uses() {
    let plugins = Plugins::new();
    ProgramFolder::new(plugins.dir(), "one").set("package", "program").install();
    let mut serving = Serving::start(&plugins, &["--metrics", "127.0.0.1:0"]);
    serving.is_up();
    serving.shows(&[
        "# TYPE hotbay_process_memory_bytes gauge",
        "# TYPE hotbay_process_cpu_seconds_total counter",
        r#"hotbay_process_cpu_seconds_total{plugin="one"} 0"#,
    ]);
    let page = serving.get("GET", "/metrics");
    let bytes = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.strip_prefix(r#"{plugin="one"} "#));
        let value = value.unwrap_or_else(|| panic!("{name} is not in\n{page}"));
        value.parse::<u64>().expect("whole bytes")
    };
    let now = bytes("hotbay_process_memory_bytes");
    assert!((1..=bytes("hotbay_process_peak_memory_bytes")).contains(&now), "{page}");
    serving.wait_exit();
}

#[test]
fn unsupported_requests_are_refused_in_one_line() {
    let plugins = Plugins::new();
    plugins.add("one", "faulty").write();
    let mut serving = Serving::start(&plugins, &["--metrics", "127.0.0.1:0"]);
    serving.is_up();
    let check = |method, path, expected: &[&str]| {
        let answer = serving.get(method, path);
        assert!(expected.iter().all(|part| answer.contains(part)), "{method} {path}: {answer}");
        assert!(!answer.contains("hotbay_"), "{method} {path}: {answer}");
    };
    for path in ["/", "/metrics/", "/Metrics", "/metrics/../metrics", "//metrics"] {
        check(
            "GET",
            path,
            &["HTTP/1.1 404 Not Found\r\n", "\r\n\r\nnot found; the metrics are at /metrics\n"],
        );
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"] {
        check(method, "/metrics", &["HTTP/1.1 405 Method Not Allowed\r\n", "allow: GET\r\n"]);
    }
    let mut stream = serving.connect();
    stream.write_all(&[b'a'; 20_000]).unwrap();
    // The server may hang up before it reads everything, and the response is lost then.
    let _ = stream.read_to_string(&mut String::new());
    let mut stream = serving.connect();
    stream.write_all(b"not HTTP\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    serving.shows(&["HTTP/1.1 200 OK", "hotbay_plugins 1"]);
}

#[test]
fn silent_connections_block_neither_page_nor_exit() {
    let plugins = Plugins::new();
    plugins.add("one", "faulty").write();
    let mut serving = Serving::start(&plugins, &["--metrics", "127.0.0.1:0"]);
    serving.is_up();
    // More than are served at once: later connections are served when these close.
    let silent: Vec<_> = (0..40).map(|_| serving.connect()).collect();
    drop(silent);
    serving.shows(&["hotbay_plugins 1"]);
    let mut silent: Vec<_> = (0..40).map(|_| serving.connect()).collect();
    silent[0].write_all(b"GET /metrics HTT").unwrap();
    let (code, out, _) = serving.wait_exit();
    assert_eq!(code, Some(0));
    assert!(out.contains("closed       one"), "{out}");
}

#[test]
fn reload_keeps_counters_under_new_generation() {
    let plugins = Plugins::new();
    let folder = plugins.add("one", "faulty").write();
    // Not every system has both.
    let loopback = ["[::1]:0", "127.0.0.1:0"];
    let loopback =
        loopback.into_iter().find(|address| TcpListener::bind(*address).is_ok()).unwrap();
    let watch = ["--json", "--watch", "--poll-ms", "20", "--metrics", loopback];
    let mut serving = Serving::start(&plugins, &watch);
    assert!(serving.address.starts_with(loopback.trim_end_matches('0')), "{}", serving.address);
    serving.is_up();
    serving.shows(&[r#"hotbay_generation{plugin="one"} 1"#]);
    let manifest = folder.join("plugin.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    value["config"] = json!({ "note": "new" });
    std::fs::write(&manifest, value.to_string()).unwrap();
    while serving.event()["event"] != "promoted" {}
    serving.shows(&[
        r#"hotbay_generation{plugin="one"} 2"#,
        r#"hotbay_calls_total{plugin="one"} 0"#,
        "hotbay_plugins 1",
    ]);
    assert_eq!(serving.wait_exit().0, Some(0));
}

#[test]
fn port_in_use_is_reported_before_loading() {
    let plugins = Plugins::new();
    let folder = plugins.add("one", "faulty");
    let entered = plugins.dir().join("entered");
    folder.config(json!({ "hang_in": "init", "entered": entered })).write();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run_to_end(&plugins, &["--metrics", &address]).exits(1).shows(str![[r#"
$ hotbay run --dir . --metrics 127.0.0.1:[PORT]
--- stderr
error: cannot serve metrics on 127.0.0.1:[PORT]
  because: Address already in use (os error [ERRNO])
  hint: choose another address or port; port 0 selects a free port
--- exit code 1
"#]]);
    run_to_end(&plugins, &["--json", "--metrics", &address]).exits(1).shows(str![[r#"
$ hotbay run --dir . --json --metrics 127.0.0.1:[PORT]
{
  "error": {
    "code": null,
    "details": null,
    "generation": null,
    "hint": "choose another address or port; port 0 selects a free port",
    "kind": "io",
    "location": null,
    "message": "cannot serve metrics on 127.0.0.1:[PORT]: Address already in use (os error [ERRNO])",
    "plugin": null,
    "retryable": null,
    "step": null
  }
}
--- exit code 1
"#]]);
    assert!(!entered.exists(), "a plugin was started");
}

#[test]
fn non_loopback_address_is_reported() {
    let plugins = Plugins::new();
    run_to_end(&plugins, &["--metrics", "localhost"]).exits(2).shows(str![[r#"
$ hotbay run --dir . --metrics localhost
--- stderr
error: invalid value 'localhost' for '--metrics <ADDR>': invalid socket address syntax

For more information, try '--help'.
--- exit code 2
"#]]);
    for address in ["9464", "127.0.0.1", "127.0.0.1:99999", ""] {
        let run = run_to_end(&plugins, &["--metrics", address]).exits(2);
        assert!(run.stderr.contains("--metrics <ADDR>"), "{address}: {}", run.stderr);
    }
    run_to_end(&plugins, &["--metrics", "0.0.0.0:0"]).exits(1).shows(str![[r#"
$ hotbay run --dir . --metrics 0.0.0.0:0
[TIME] stopped
--- stderr
metrics: http://0.0.0.0:[PORT]/metrics
note: 0.0.0.0:[PORT] can be reached from other machines
error: nothing to run: no plugins found in `.`
  hint: build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`
--- exit code 1
"#]]);
}
