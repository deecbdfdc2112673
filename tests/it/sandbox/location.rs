//! A confined program cannot let the host, which is not confined, connect to other programs.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use hotbay::{Host, LoadStep, Request};
use hotbay_tests::{ProgramFolder, processes_of, refused};
use serde_json::json;

use super::can_confine;
use crate::process::fixture::ProcessFixture;

fn confined(fixture: &ProcessFixture) -> impl FnOnce(ProgramFolder) -> ProgramFolder + use<> {
    let files = ["journal", "marks"].map(|name| fixture.file(name));
    files.iter().for_each(|file| fs::write(file, "").expect("a file"));
    let sandbox = json!({ "read": ["/"], "write": files, "net": { "listen": [0] } });
    |program| program.set("sandbox", sandbox)
}

#[test]
fn host_connects_to_no_other_program() {
    if !can_confine(1) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("other.socket");
    let unix = UnixListener::bind(&path).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = tcp.local_addr().expect("an address").port();
    for text in [format!("http+unix://{}", path.display()), format!("http://127.0.0.1:{port}")] {
        let fixture = ProcessFixture::new();
        let program = fixture.program(json!({ "location": { "text": text } }));
        let folder = confined(&fixture)(program).install();
        let error = refused(&Host::builder().build().expect("a host"), folder);
        let message = error.full_message();
        assert_eq!(error.step(), Some(LoadStep::Location), "{message}");
        assert!(message.contains("a process of another program"), "{message}");
        assert!(processes_of(&fixture.name).is_empty());
    }
    tcp.set_nonblocking(true).expect("it is ours");
    tcp.accept().expect_err("none has connected");
    // The check connects, and sends nothing.
    let (mut connection, _) = unix.accept().expect("the check");
    connection.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    assert_eq!(connection.read(&mut [0; 64]).expect("the end"), 0);
    unix.set_nonblocking(true).expect("it is ours");
    unix.accept().expect_err("one connection");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the process belongs to no host")]
fn socket_of_a_process_that_has_exited_is_refused() {
    /// Listens, and passes the socket to a child process, which exits at the end of its stdin.
    const DAEMON: &str = "import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
if os.fork():
    os._exit(0)
sys.stdin.read()";
    if !can_confine(1) || !hotbay_tests::has_interpreter("python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("other.socket");
    let mut daemon = Command::new("python3")
        .args(["-c", DAEMON])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("python");
    let stdin = daemon.stdin.take();
    assert!(daemon.wait().expect("an exit").success());
    let fixture = ProcessFixture::new();
    let text = format!("http+unix://{}", path.display());
    let program = fixture.program(json!({ "location": { "text": text } }));
    let error =
        refused(&Host::builder().build().expect("a host"), confined(&fixture)(program).install());
    let message = error.full_message();
    assert_eq!(error.step(), Some(LoadStep::Location), "{message}");
    // Kernels before 6.5 do not know which process it was.
    let reasons = ["has exited, so its owner is not known", "a process of another program"];
    assert!(reasons.iter().any(|reason| message.contains(reason)), "{message}");
    drop(stdin);
}

#[test]
fn program_is_called_at_its_own_port() {
    for kind in ["http", "any"] {
        let behavior = json!({ "location": { "kind": kind } });
        let fixture = ProcessFixture::new();
        let program = confined(&fixture);
        let running = fixture.run_with(behavior, program, |host| host);
        let reply = running.handle.call(Request::text("text")).expect("a reply");
        assert_eq!(reply.as_text().expect("text"), "text");
        running.end();
    }
}
