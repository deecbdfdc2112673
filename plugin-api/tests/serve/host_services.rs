//! Tests the requests of a plugin to the services of its host.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Program, Start, TOKEN};

/// A host that sends the same response to every request.
struct FakeHost {
    requests: Receiver<(String, Value)>,
    _folder: TempDir,
    address: String,
}

impl FakeHost {
    fn new(status: u16, level: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("host.socket");
        let address = format!("http+unix://{}", socket.display());
        let listener = UnixListener::bind(socket).unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            // Every connection carries two requests, so that the plugin has to connect again.
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                for _ in 0..2 {
                    let Some(request) = request(&mut stream) else { break };
                    let response = format!(
                        "HTTP/1.1 {status} X\r\nHotbay-Log-Level: {level}\r\n\
                         Content-Length: 0\r\n\r\n"
                    );
                    stream.get_mut().write_all(response.as_bytes()).unwrap();
                    if sender.send(request).is_err() {
                        return;
                    }
                }
            }
        });
        Self { requests, _folder: folder, address }
    }

    fn start(&self) -> Program {
        Start { host: Some(self.address.clone()), ..Start::default() }.run()
    }

    fn next(&self) -> (String, Value) {
        self.requests.recv_timeout(std::time::Duration::from_secs(60)).unwrap()
    }
}

/// Reads a request; returns its path and body.
fn request(stream: &mut BufReader<UnixStream>) -> Option<(String, Value)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let value = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).unwrap();
    assert_eq!(value("hotbay-token: "), TOKEN);
    let mut body = vec![0; value("content-length: ").parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    let path = lines[0].split(' ').nth(1).unwrap().to_owned();
    Some((path, serde_json::from_slice(&body).unwrap()))
}

fn log(program: &Program, by: &str, level: &str, message: &str) -> String {
    program.execute(json!({ "do": "log", "by": by, "level": level, "message": message })).body
}

#[test]
fn lines_of_all_logging_crates_reach_the_host() {
    let host = FakeHost::new(200, 5);
    let program = host.start();
    let (path, line) = host.next();
    assert_eq!((path.as_str(), &line["message"]), ("/log", &json!("started")));
    for (by, level, code) in [("host", "warn", 2), ("tracing", "debug", 4), ("log", "error", 1)] {
        assert_eq!(log(&program, by, level, by), "ok");
        let (path, line) = host.next();
        assert_eq!((path.as_str(), &line["level"]), ("/log", &json!(code)));
        assert_eq!(line["message"], by);
        if by == "tracing" {
            assert_eq!(line["target"], "served");
            assert!(line["file"].as_str().unwrap().ends_with("lib.rs"));
            assert!(line["fields"].is_object());
        }
    }
}

#[test]
fn unwanted_level_is_not_sent() {
    let host = FakeHost::new(200, 2);
    let program = host.start();
    assert_eq!(host.next().1["message"], "started");
    let enabled = |level: &str| program.execute(json!({ "do": "enabled", "level": level })).body;
    assert_eq!([enabled("error"), enabled("warn"), enabled("info")], ["true", "true", "false"]);
    assert_eq!(log(&program, "host", "info", "unheard"), "ok");
    assert_eq!(log(&program, "host", "error", "heard"), "ok");
    assert_eq!(host.next().1["message"], "heard");
}

#[test]
fn host_status_becomes_a_service_error() {
    for (status, expected) in [
        (403, "permission denied: the manifest's `permissions` do not include this service"),
        (410, "the plugin was stopped"),
        (503, "the host does not offer this service, or is overloaded"),
        (404, "the host does not offer this service, or is overloaded"),
    ] {
        let host = FakeHost::new(status, 5);
        let program = host.start();
        assert_eq!(log(&program, "host", "info", "x"), expected);
    }
}

#[test]
fn missing_or_silent_host_is_unavailable() {
    let unavailable = "the host does not offer this service, or is overloaded";
    assert_eq!(log(&Start::default().run(), "host", "info", "x"), unavailable);
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("host.socket");
    let address = format!("http+unix://{}", socket.display());
    let start = || Start { host: Some(address.clone()), ..Start::default() };
    assert_eq!(log(&start().run(), "host", "info", "x"), unavailable);
    // Accepts, but never responds.
    let _listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(log(&start().run(), "host", "info", "x"), unavailable);
}

#[test]
fn panic_on_plugin_thread_is_reported() {
    let host = FakeHost::new(200, 5);
    let program = host.start();
    assert_eq!(host.next().0, "/log");
    let input = json!({ "do": "panic-elsewhere", "message": "ouch" });
    assert_eq!(program.execute(input.clone()).body, "panicked");
    let (path, reported) = host.next();
    assert_eq!((path.as_str(), &reported["message"]), ("/thread-panicked", &json!("ouch")));
    assert!(reported["location"].as_str().unwrap().contains("lib.rs:"));
    assert_eq!(program.errors(), "");
    let alone = Start::default().run();
    assert_eq!(alone.execute(input).body, "panicked");
    assert!(alone.errors().contains("a thread that the plugin started panicked"));
}
