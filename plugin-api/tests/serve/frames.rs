//! Tests calls in frames, on upgraded connections.

use std::io;
use std::thread;
use std::time::Duration;

use hotbay_protocol::frame::{self, FrameBuffer, ReplyHead, RequestHead};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Client, Program, Start, wait_until};

const UPGRADE: [(&str, &str); 2] = [("Connection", "upgrade"), ("Upgrade", frame::UPGRADE)];

const EXECUTE: RequestHead<'_> = RequestHead {
    call_id: 1,
    deadline_ms: None,
    trace: None,
    contract_hash: None,
    endpoint: "execute",
    content_type: "application/json",
};

/// A connection that carries frames.
struct Frames {
    client: Client,
    received: FrameBuffer,
}

#[derive(Debug)]
struct Reply {
    call_id: u64,
    status: u16,
    content_type: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Frames {
    fn open(program: &Program) -> Self {
        let mut client = program.connect().unwrap();
        client.send("GET", "/healthz", &UPGRADE, "").unwrap();
        let head = client.receive_head().unwrap();
        assert_eq!(head.status, 101);
        assert_eq!(head.header("upgrade"), Some(frame::UPGRADE));
        Self { client, received: FrameBuffer::default() }
    }

    fn send(&mut self, head: &RequestHead<'_>, body: &[u8]) -> io::Result<()> {
        let mut request = Vec::new();
        frame::write_head(&mut request, head, body.len()).unwrap();
        request.extend_from_slice(body);
        self.client.write(&request)
    }

    fn receive(&mut self) -> io::Result<Reply> {
        while !self.received.has_frame(usize::MAX).unwrap() {
            let count = self.client.read(self.received.spare())?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.fill(count);
        }
        let (head, body) = frame::split::<ReplyHead<'_>>(self.received.take_frame()).unwrap();
        Ok(Reply {
            call_id: head.call_id,
            status: head.status,
            content_type: head.content_type.to_owned(),
            body: String::from_utf8(body.to_vec()).unwrap(),
        })
    }

    #[track_caller]
    fn call(&mut self, head: &RequestHead<'_>, body: impl AsRef<[u8]>) -> Reply {
        self.send(head, body.as_ref()).unwrap();
        let reply = self.receive().unwrap();
        assert_eq!(reply.call_id, head.call_id);
        reply
    }

    #[track_caller]
    fn execute(&mut self, input: Value) -> Reply {
        self.call(&EXECUTE, input.to_string())
    }
}

#[test]
fn calls_in_frames_return_what_they_return_over_http() {
    let program = Start::default().run();
    let mut frames = Frames::open(&program);
    let large = "x".repeat(900 << 10);
    for (content_type, body) in [("text/csv", "a,b"), ("x/y", ""), ("text/plain", &large)] {
        let reply = frames.call(&RequestHead { content_type, ..EXECUTE }, body);
        assert_eq!((reply.status, reply.body.as_str()), (200, body));
        assert_eq!(reply.content_type, content_type);
    }
    let rows = RequestHead { endpoint: "rows", ..EXECUTE };
    assert_eq!(frames.call(&rows, "2").json(), json!([{ "id": 0 }, { "id": 1 }]));
    for input in [
        json!({ "do": "fail", "code": -3, "message": "no such row", "details": { "row": 7 } }),
        json!({ "do": "panic", "message": "ouch" }),
    ] {
        let (reply, response) = (frames.execute(input.clone()), program.execute(input));
        assert_eq!((reply.status, reply.json()), (response.status, response.json()));
        assert_eq!(Some(reply.content_type.as_str()), response.header("content-type"));
    }
    for endpoint in ["none", "", "healthz", "batch", "shutdown", "snapshot"] {
        let reply = frames.call(&RequestHead { endpoint, ..EXECUTE }, "");
        assert_eq!(reply.status, 404, "{endpoint}");
        assert_eq!(reply.json()["statusCode"], 404);
    }
}

#[test]
fn context_of_a_frame_has_id_trace_and_deadline() {
    let program = Start::default().run();
    let mut frames = Frames::open(&program);
    let trace = Some(([10; 16], [11; 8], 1));
    let head = RequestHead { call_id: u64::MAX, deadline_ms: Some(3_600_000), trace, ..EXECUTE };
    let input = json!({ "do": "context" }).to_string();
    let reported = frames.call(&head, &input).json();
    assert_eq!(reported["callId"], u64::MAX);
    assert_eq!(reported["traceId"], "0a".repeat(16));
    assert!(reported["remainingMs"].as_u64().is_some_and(|left| left <= 3_600_000));
    assert_eq!(reported["isCancelled"], false);
    let reported = frames.call(&RequestHead { deadline_ms: Some(0), ..EXECUTE }, &input).json();
    assert_eq!((&reported["remainingMs"], &reported["isCancelled"]), (&json!(0), &json!(true)));
    let reported = frames.call(&EXECUTE, &input).json();
    assert_eq!((&reported["remainingMs"], &reported["traceId"]), (&Value::Null, &Value::Null));
}

#[test]
fn upgrade_needs_the_token_and_the_name() {
    let program = Start::default().run();
    let token = [UPGRADE[0], UPGRADE[1], ("Hotbay-Token", "wrong")];
    let response = program.connect().unwrap().request("GET", "/healthz", &token, "").unwrap();
    assert_eq!(response.status, 401);
    // Served as ordinary requests, as HTTP requires.
    let mut client = program.connect().unwrap();
    for headers in [&[UPGRADE[0], ("Upgrade", "websocket")][..], &UPGRADE[..1], &UPGRADE[1..]] {
        assert_eq!(client.request("GET", "/healthz", headers, "").unwrap().status, 200);
    }
    let response = client.request("POST", "/execute", &UPGRADE, "called").unwrap();
    assert_eq!((response.status, response.body.as_str()), (200, "called"));
}

#[test]
fn invalid_frames_end_only_their_connection() {
    let program = Start::default().run();
    let too_long = u32::try_from(frame::MAX_REQUEST_BYTES + 1).unwrap().to_le_bytes();
    for bytes in [&too_long[..], &[0xff; 64], b"GET /healthz HTTP/1.1\r\n\r\n"] {
        let mut frames = Frames::open(&program);
        frames.client.write(bytes).unwrap();
        assert!(frames.receive().is_err());
    }
    // Its length is valid, so the connection goes on.
    let mut frames = Frames::open(&program);
    frames.client.write(&[2, 0, 0, 0, 0xff, 0xff]).unwrap();
    assert_eq!(frames.receive().unwrap().status, 400);
    let reply = frames.call(&RequestHead { content_type: "a\nb", ..EXECUTE }, "");
    assert_eq!(reply.status, 400);
    assert_eq!(frames.call(&EXECUTE, "still").body, "still");
}

#[test]
fn closed_connection_of_frames_cancels_the_call() {
    let (program, files) = (Start::default().run(), TempDir::new().unwrap());
    let [started, cancelled] = ["started", "cancelled"].map(|name| files.path().join(name));
    let input = json!({
        "do": "wait", "until": files.path().join("never"), "creates": started,
        "when_cancelled": cancelled,
    });
    let mut frames = Frames::open(&program);
    frames.send(&EXECUTE, input.to_string().as_bytes()).unwrap();
    wait_until("the call runs", || started.exists());
    drop(frames);
    wait_until("the call was cancelled", || cancelled.exists());
    assert_eq!(program.request("GET", "/healthz", "").status, 200);
}

#[test]
fn program_stops_after_the_running_call_and_with_idle_connections() {
    let (mut program, files) = (Start::default().run(), TempDir::new().unwrap());
    let [started, until] = ["started", "until"].map(|name| files.path().join(name));
    let mut busy = Frames::open(&program);
    let mut idle = Frames::open(&program);
    assert_eq!(idle.call(&EXECUTE, "x").body, "x");
    let wait = json!({ "do": "wait", "until": until, "creates": started });
    busy.send(&EXECUTE, wait.to_string().as_bytes()).unwrap();
    wait_until("the call runs", || started.exists());
    assert_eq!(program.request("GET", "/shutdown", "").status, 200);
    wait_until("the idle connection is closed", || idle.send(&EXECUTE, b"x").is_err());
    std::fs::write(&until, "").unwrap();
    assert_eq!(busy.receive().unwrap().status, 200);
    assert_eq!(busy.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(program.wait_for_exit().code(), Some(0), "{}", program.errors());
    assert!(program.files().is_empty());
}

#[test]
fn frame_sent_before_an_idle_exit_is_answered() {
    for round in 0..20 {
        let mut program = Start { idle: json!("2ms"), ..Start::default() }.run();
        let Ok(mut client) = program.connect() else { continue };
        if client.send("GET", "/healthz", &UPGRADE, "").is_err() {
            continue;
        }
        // The health request is not a call, so the program may exit before it.
        if client.receive_head().is_err() {
            continue;
        }
        let mut frames = Frames { client, received: FrameBuffer::default() };
        let mut answered = 0;
        while frames.send(&EXECUTE, b"hello").is_ok() {
            let reply = frames.receive();
            let reply = reply.unwrap_or_else(|e| panic!("call lost in round {round}: {e}"));
            assert_eq!(reply.body, "hello");
            answered += 1;
            // Increases the pause until the program exits between two calls.
            thread::sleep(Duration::from_micros(50 * answered));
        }
        assert_eq!(program.wait_for_exit().code(), Some(0));
    }
}

#[test]
fn program_that_stops_between_calls_loses_none() {
    for round in 0..20 {
        let mut program = Start::default().run();
        let mut frames = Frames::open(&program);
        for call in 0.. {
            if call == 20 + round {
                program.signal(rustix::process::Signal::TERM);
            }
            if frames.send(&EXECUTE, b"hello").is_err() {
                break;
            }
            let reply = frames.receive();
            let reply = reply.unwrap_or_else(|e| panic!("call {call} lost in round {round}: {e}"));
            assert_eq!(reply.body, "hello");
        }
        assert_eq!(program.wait_for_exit().code(), Some(0), "{}", program.errors());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn idle_connections_of_frames_are_closed() {
    let program = Start::default().run();
    let threads = || program.threads("hotbay-frames");
    let mut frames: Vec<_> = (0..4).map(|_| Frames::open(&program)).collect();
    for connection in &mut frames {
        assert_eq!(connection.call(&EXECUTE, "x").body, "x");
    }
    assert_eq!(threads(), 4);
    wait_until("the threads of idle connections have exited", || threads() == 0);
    for connection in &mut frames {
        assert!(connection.send(&EXECUTE, b"x").is_err(), "the call is not sent");
    }
}
