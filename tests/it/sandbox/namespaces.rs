//! Confined programs in new namespaces. The tests read the namespaces of a program from outside.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::time::Duration;

use hotbay::confinement::{ConfinementPolicy, Kernel, RuleStatus};
use hotbay::manifest::SandboxRule;
use hotbay::{ErrorKind, Host, HostBuilder, HostEvent, LoadStep, Request};
use hotbay_tests::{
    Plugins, ProgramFolder, block_on, event, host_until_killed, orphan, refused, rerun_test, unique,
};
use serde_json::json;

use super::denials::{deny, run_without};
use super::{assert_denied, assert_permitted, attempt, program, start, start_with};
use crate::process::fixture::{ProcessFixture, Running};

/// Returns whether this machine has namespaces. If not, prints that a test is skipped.
fn has_namespaces() -> bool {
    let namespaces = Kernel::current().namespaces;
    if let Err(cause) = namespaces {
        eprintln!("skipped: {cause}");
    }
    namespaces.is_ok()
}

/// Returns the status of the rule `namespaces`.
fn status(running: &Running) -> Option<RuleStatus> {
    let confinement = running.host.list().remove(0).confinement.expect("it is confined");
    confinement.status(SandboxRule::Namespaces).cloned()
}

/// Returns which of these namespaces are not those of the test.
fn separate<'n>(running: &Running, names: &[&'n str]) -> Vec<&'n str> {
    let pid = running.host.list().remove(0).pid.expect("a process");
    let namespace = |process: &str, name: &str| {
        fs::read_link(format!("/proc/{process}/ns/{name}")).expect("a namespace")
    };
    let is_separate = |name: &&str| namespace("self", name) != namespace(&pid.to_string(), name);
    names.iter().copied().filter(is_separate).collect()
}

const ALL: [&str; 6] = ["user", "net", "ipc", "uts", "pid", "mnt"];

#[test]
fn program_in_namespaces_has_its_own_network_and_no_privileges() {
    if !has_namespaces() {
        return;
    }
    let name = unique("abstract");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let tcp = tcp.local_addr().expect("bound").to_string();
    let running = start(json!({ "namespaces": true, "require": ["namespaces"] }));
    assert_eq!(status(&running), Some(RuleStatus::Enforced));
    assert_eq!(separate(&running, &ALL), ["user", "net", "ipc", "uts"]);
    let pid = running.host.list().remove(0).pid.expect("a process");
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).expect("a file");
    let status = read("status");
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
    let own = fs::read_to_string("/proc/self/status").expect("a file");
    let uid = |status: &str| {
        let line = status.lines().find(|line| line.starts_with("Uid:"));
        line.expect("a user").to_owned()
    };
    assert_eq!(uid(&status), uid(&own));
    assert_eq!(read("setgroups").trim(), "deny");
    assert_denied(&running, json!({ "do": "connect", "address": tcp }));
    assert_denied(&running, json!({ "do": "abstract", "name": name }));
    let tmp = attempt(&running, json!({ "do": "variable", "name": "TMPDIR" }));
    assert_permitted(&running, json!({ "do": "write", "path": format!("{tmp}/file") }));
    running.end();
}

#[test]
fn program_without_the_word_is_in_no_namespaces() {
    let running = start(json!({}));
    assert_eq!(status(&running), None);
    assert!(separate(&running, &ALL).is_empty());
    running.end();
}

#[test]
fn program_with_ports_keeps_the_network() {
    if !has_namespaces() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let connect = json!({ "connect": [address.port()] });
    let running = start(json!({ "namespaces": true, "net": connect }));
    assert_eq!(separate(&running, &ALL), ["user", "ipc", "uts"]);
    assert_permitted(&running, json!({ "do": "connect", "address": address.to_string() }));
    running.end();
}

#[test]
fn host_can_set_namespaces_for_all_programs() {
    if !has_namespaces() {
        return;
    }
    let folder = Plugins::new();
    let file = folder.dir().join("hotbay.toml");
    fs::write(&file, "[sandbox]\nnamespaces = true\n").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its mode");
    let policy = ConfinementPolicy::default().with_namespaces(true);
    let by_code = |host: HostBuilder| host.confinement(policy);
    let by_file = |host: HostBuilder| host.config_file(&file);
    for running in [
        start_with(json!({}), |program| program, by_code),
        start_with(json!({}), |program| program, by_file),
    ] {
        assert_eq!(status(&running), Some(RuleStatus::Enforced));
        assert_eq!(separate(&running, &ALL), ["user", "net", "ipc", "uts"]);
        running.end();
    }
}

/// Starts the fixture `program`, which uses services and has a state, in namespaces.
fn start_stateful() -> Running {
    let fixture = ProcessFixture::new();
    let files = ["journal", "marks"].map(|name| fixture.file(name));
    files.iter().for_each(|file| fs::write(file, "").expect("a file"));
    let sandbox = json!({ "namespaces": true, "write": files });
    let program = |program: ProgramFolder| program.set("sandbox", sandbox);
    fixture.run_with(json!({ "serve": { "state": true } }), program, |host| host.quarantine(None))
}

#[test]
fn services_and_reload_work_in_namespaces() {
    if !has_namespaces() {
        return;
    }
    let running = start_stateful();
    let line = json!({ "level": 2, "message": "from its own network" });
    let reported = running.call_json(&json!({ "do": "call-host", "path": "/log", "body": line }));
    assert_eq!(reported["status"], 200, "{reported}");
    let count = |running: &Running| running.call_json(&json!({ "do": "count" }));
    let before = count(&running).as_u64().expect("a number");
    block_on(running.host.reload(&running.fixture.name)).expect("it reloads");
    assert!(count(&running).as_u64().expect("a number") > before);
    assert_eq!(separate(&running, &ALL), ["user", "net", "ipc", "uts"]);
    running.end();
}

#[test]
fn crash_and_missed_deadline_end_all_processes_in_namespaces() {
    if !has_namespaces() {
        return;
    }
    let running = start_stateful();
    let mut events = running.host.events();
    running.call_json(&json!({ "do": "grandchild" }));
    running.call(&json!({ "do": "exit", "code": 3 })).expect_err("it exits");
    event(&mut events, |event| matches!(event, HostEvent::ChildExited { .. }));
    running.serves();
    assert_eq!(separate(&running, &ALL), ["user", "net", "ipc", "uts"]);
    running.call_json(&json!({ "do": "grandchild" }));
    let request = Request::json_text(r#"{ "do": "wait", "ms": 600000 }"#);
    let request = request.with_timeout(Duration::from_millis(100));
    let error = block_on(running.handle.execute(request)).expect_err("it waits for too long");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    running.serves();
    running.end();
}

/// Set in the host to be killed: its plugin's folder.
const HOST: &str = "HOTBAY_TESTS_HOST_IN_NAMESPACES";

#[test]
fn killed_host_leaves_no_process_in_namespaces() {
    if !has_namespaces() {
        return;
    }
    if let Some(folder) = std::env::var_os(HOST) {
        let folder = PathBuf::from(folder);
        return host_until_killed(&[folder.join("one")], &folder.join("staged"));
    }
    let plugins = Plugins::new();
    let folder = ProgramFolder::new(plugins.dir(), "one").set("package", "program");
    folder.set("sandbox", json!({ "namespaces": true, "require": ["namespaces"] })).install();
    fs::create_dir(plugins.dir().join("staged")).expect("a folder");
    let test = concat!(module_path!(), "::killed_host_leaves_no_process_in_namespaces");
    let orphaned = orphan(rerun_test(test).env(HOST, plugins.dir()));
    // The process, three descendants and a guardian.
    assert_eq!(orphaned.processes, 5, "{orphaned:?}");
    assert!(orphaned.left.is_empty(), "{orphaned:?}");
}

#[test]
fn namespaces_alone_separate_the_network() {
    if !run_without(
        "landlock seccomp",
        concat!(module_path!(), "::namespaces_alone_separate_the_network"),
    ) || !has_namespaces()
    {
        return;
    }
    let name = unique("abstract");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("a socket");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (tcp, udp) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
    let actions = [
        json!({ "do": "connect", "address": tcp.to_string() }),
        json!({ "do": "udp", "address": udp.to_string() }),
        json!({ "do": "abstract", "name": name }),
        // Its host name is its own, and it may not change that either.
        json!({ "do": "syscall", "number": libc::SYS_sethostname, "arguments": [0, 0] }),
    ];
    let free = start(json!({}));
    for action in &actions[..3] {
        assert_permitted(&free, action.clone());
    }
    free.end();
    let running = start(json!({ "namespaces": true }));
    for action in actions {
        assert_denied(&running, action);
    }
    let confinement = running.host.list().remove(0).confinement.expect("it is confined");
    let reason = |rule| confinement.status(rule).and_then(RuleStatus::reason).unwrap_or_default();
    assert!(reason(SandboxRule::Net).contains("such as vsock"));
    assert!(reason(SandboxRule::Ipc).contains("sockets that have a path"));
    assert_eq!(confinement.status(SandboxRule::Namespaces), Some(&RuleStatus::Enforced));
    running.end();
}

#[test]
fn denied_namespaces_refuse_what_requires_them() {
    let test = concat!(module_path!(), "::denied_namespaces_refuse_what_requires_them");
    if !run_without("namespaces", test) {
        return;
    }
    assert!(Kernel::current().namespaces.is_err());
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, json!({ "require": ["namespaces"] })).install();
    let host = Host::builder().build().expect("a host");
    let error = refused(&host, folder);
    assert_eq!((error.kind(), error.step()), (ErrorKind::Unsupported, Some(LoadStep::Confine)));
    let message = error.full_message();
    assert!(message.contains("namespaces is unavailable (the system denies them"), "{message}");
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("no longer require `namespaces`"), "{hint}");
    assert!(fixture.started().is_empty());
    let running = start(json!({ "namespaces": true }));
    assert_eq!(status(&running).as_ref().map(RuleStatus::as_str), Some("unavailable"));
    assert!(separate(&running, &ALL).is_empty());
    running.end();
}

#[test]
fn namespaces_denied_after_the_probe_are_named() {
    let test = concat!(module_path!(), "::namespaces_denied_after_the_probe_are_named");
    if !run_without("", test) || !has_namespaces() {
        return;
    }
    deny("namespaces");
    let fixture = ProcessFixture::new();
    let folder = program(&fixture, json!({ "namespaces": true })).install();
    let host = Host::builder().build().expect("a host");
    let error = refused(&host, folder);
    assert_eq!(error.kind(), ErrorKind::StartFailed);
    let message = error.full_message();
    assert!(message.contains("in new namespaces: the system denies them"), "{message}");
    assert!(fixture.started().is_empty());
}
