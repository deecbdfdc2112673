//! Tests many connections at once: calls that block, compute or panic, slow clients, and threads.

use std::path::PathBuf;
use std::{fs, thread};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::program::{Client, Program, Start, TOKEN, wait_until};

/// Maximum number of connections that a program serves at once.
const MAX_CONNECTIONS: usize = 256;

/// Calls that run until `finish`, each on its own connection.
struct RunningCalls {
    clients: Vec<Client>,
    files: TempDir,
}

impl RunningCalls {
    /// Starts calls of the action `action`, and waits until all of them run at once.
    fn start(program: &Program, action: &str, count: usize) -> Self {
        let files = TempDir::new().unwrap();
        let end = files.path().join("end");
        let started: Vec<PathBuf> =
            (0..count).map(|at| files.path().join(format!("started-{at}"))).collect();
        let start = |started: &PathBuf| {
            let input = json!({ "do": action, "until": end, "creates": started });
            let mut client = program.connect().unwrap();
            client.send("POST", "/execute", &[], input.to_string()).unwrap();
            client
        };
        let clients = started.iter().map(start).collect();
        for started in &started {
            wait_until("the call runs", || started.exists());
        }
        Self { clients, files }
    }

    /// Lets the calls return, and returns their connections.
    fn finish(self) -> Vec<Client> {
        fs::write(self.files.path().join("end"), "").unwrap();
        let receive = |mut client: Client| {
            assert_eq!(client.receive().unwrap().body, "came");
            client
        };
        self.clients.into_iter().map(receive).collect()
    }
}

#[track_caller]
fn check_is_served(program: &Program) {
    let mut client = program.connect().unwrap();
    assert_eq!(client.request("GET", "/healthz", &[], "").unwrap().status, 200);
    assert_eq!(client.request("POST", "/execute", &[], "hello").unwrap().body, "hello");
}

#[test]
fn calls_that_block_or_compute_delay_no_other() {
    for action in ["wait", "spin"] {
        let program = Start::default().run();
        let mut kept = program.connect().unwrap();
        assert_eq!(kept.request("GET", "/healthz", &[], "").unwrap().status, 200);
        let running = RunningCalls::start(&program, action, 4);
        check_is_served(&program);
        assert_eq!(kept.request("POST", "/execute", &[], "kept").unwrap().body, "kept");
        for mut client in running.finish() {
            assert_eq!(client.request("POST", "/execute", &[], "again").unwrap().body, "again");
        }
        check_is_served(&program);
    }
}

#[test]
fn all_connections_may_be_in_calls_at_once() {
    let program = Start::default().run();
    let running = RunningCalls::start(&program, "wait", MAX_CONNECTIONS - 1);
    check_is_served(&program);
    // Calls on kept connections run at once, too.
    let mut clients = running.finish();
    let files = TempDir::new().unwrap();
    let [until, started] = ["end", "started"].map(|name| files.path().join(name));
    let input = json!({ "do": "hang", "until": until }).to_string();
    for client in &mut clients[1..] {
        client.send("POST", "/execute", &[], &input).unwrap();
    }
    let input = json!({ "do": "wait", "until": until, "creates": started }).to_string();
    clients[0].send("POST", "/execute", &[], input).unwrap();
    wait_until("the last call runs", || started.exists());
    check_is_served(&program);
    fs::write(until, "").unwrap();
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().body, "came");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn idle_connections_cost_no_threads() {
    let program = Start::default().run();
    let mut clients: Vec<_> =
        (0..MAX_CONNECTIONS - 1).map(|_| program.connect().unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.request("POST", "/execute", &[], "hello").unwrap().body, "hello");
    }
    // On a loaded machine, a thread that does not get to run looks like one in a long call.
    let threads = program.threads("hotbay-calls");
    assert!(threads < 16, "{threads} threads");
}

#[cfg(target_os = "linux")]
#[test]
fn surplus_threads_exit() {
    let program = Start::default().run();
    let running = RunningCalls::start(&program, "wait", 40);
    let threads = || program.threads("hotbay-calls");
    assert!(threads() >= 40, "{} threads", threads());
    let clients = running.finish();
    wait_until("the threads to exit", || threads() < 16);
    drop(clients);
    check_is_served(&program);
}

#[test]
fn panicking_calls_leave_all_threads_usable() {
    let program = Start::default().run();
    let panics = json!({ "do": "panic", "message": "ouch" }).to_string();
    let mut clients: Vec<_> = (0..40).map(|_| program.connect().unwrap()).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.send("POST", "/execute", &[], &panics).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.receive().unwrap().json()["fault"]["message"], "ouch");
        }
    }
    for client in &mut clients {
        assert_eq!(client.request("POST", "/execute", &[], "hello").unwrap().body, "hello");
    }
}

#[test]
fn slow_reader_gets_whole_response_and_delays_no_other() {
    for transport in ["unix", "tcp"] {
        let program = Start { transport, ..Start::default() }.run();
        let count = 8 << 20;
        let input = json!({ "do": "bytes", "count": count }).to_string();
        let mut slow: Vec<_> = (0..8).map(|_| program.connect().unwrap()).collect();
        for client in &mut slow {
            client.send("POST", "/execute", &[], &input).unwrap();
        }
        check_is_served(&program);
        for client in &mut slow {
            assert_eq!(client.receive().unwrap().body.len(), count);
            // The next response is smaller than the buffers again.
            assert_eq!(client.request("POST", "/execute", &[], "next").unwrap().body, "next");
        }
    }
}

#[test]
fn slow_writer_is_answered_and_delays_no_other() {
    let program = Start::default().run();
    let mut slow = program.connect().unwrap();
    let request = format!(
        "POST /execute HTTP/1.1\r\nHotbay-Token: {TOKEN}\r\nContent-Length: 5\r\n\r\nhello"
    );
    for byte in request.as_bytes() {
        slow.write(&[*byte]).unwrap();
        check_is_served(&program);
    }
    assert_eq!(slow.receive().unwrap().body, "hello");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let program = Start::default().run();
    let (mut pipelined, mut requests) = (program.connect().unwrap(), String::new());
    for at in 0..500 {
        let body = format!("{at:05}");
        requests.push_str(&format!(
            "POST /execute HTTP/1.1\r\nHotbay-Token: {TOKEN}\r\nContent-Length: 5\r\n\r\n{body}"
        ));
    }
    pipelined.write(requests.as_bytes()).unwrap();
    check_is_served(&program);
    for at in 0..500 {
        assert_eq!(pipelined.receive().unwrap().body, format!("{at:05}"));
    }
}

#[test]
fn pipelined_requests_do_not_wait_for_another_connection() {
    // Most rounds meet the moment at which more threads serve than are needed.
    for _ in 0..15 {
        let program = Start::default().run();
        // Calls that block, so that the program uses several threads.
        let blocking = RunningCalls::start(&program, "wait", 1);
        check_is_served(&program);
        let mut other = blocking.finish().remove(0);
        let first = RunningCalls::start(&program, "wait", 1);
        check_is_served(&program);
        let RunningCalls { mut clients, files } = first;
        let request = format!(
            "POST /execute HTTP/1.1\r\nHotbay-Token: {TOKEN}\r\nContent-Length: 1\r\n\r\nx"
        );
        clients[0].write(request.repeat(200).as_bytes()).unwrap();
        let until = files.path().join("until");
        let input = json!({ "do": "hang", "until": until }).to_string();
        fs::write(files.path().join("end"), "").unwrap();
        other.send("POST", "/execute", &[], input).unwrap();
        let receiving = thread::spawn(move || {
            assert_eq!(clients[0].receive().unwrap().body, "came");
            for _ in 0..200 {
                assert_eq!(clients[0].receive().unwrap().body, "x");
            }
        });
        wait_until("the pipelined requests are answered", || receiving.is_finished());
        receiving.join().unwrap();
        fs::write(until, "").unwrap();
        assert_eq!(other.receive().unwrap().body, "came");
    }
}

#[test]
fn connections_closed_during_calls_make_way_for_others() {
    let program = Start::default().run();
    for _ in 0..3 {
        let running = RunningCalls::start(&program, "wait", MAX_CONNECTIONS - 1);
        let RunningCalls { clients, files } = running;
        drop(clients);
        check_is_served(&program);
        drop(files);
    }
    let clients = RunningCalls::start(&program, "wait", MAX_CONNECTIONS - 1).finish();
    assert_eq!(clients.len(), MAX_CONNECTIONS - 1);
}

#[test]
fn stop_waits_for_calls_of_many_connections() {
    let files = TempDir::new().unwrap();
    let stopped = files.path().join("shutdown");
    let mut program = Start::with(json!({ "start": 5, "shutdown_writes": stopped })).run();
    let mut idle: Vec<_> = (0..50).map(|_| program.connect().unwrap()).collect();
    for client in &mut idle {
        assert_eq!(client.request("GET", "/healthz", &[], "").unwrap().status, 200);
    }
    let running = RunningCalls::start(&program, "wait", 50);
    program.signal(Signal::TERM);
    for client in &mut idle {
        wait_until("idle connections to close", || {
            client.send("GET", "/healthz", &[], "").is_err()
        });
    }
    assert!(!stopped.exists(), "the plugin shut down during a call");
    running.finish();
    assert_eq!(program.wait_for_exit().code(), Some(0), "{}", program.errors());
    assert_eq!(fs::read_to_string(stopped).unwrap(), "5");
}
