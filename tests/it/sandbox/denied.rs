//! What a confined program is denied. Each list runs without a sandbox first, so that a wrong
//! attempt does not look like a denial.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use hotbay_tests::{Plugins, unique};
use serde_json::{Value, json};

use super::links::restart_after;
use super::{assert_denied, assert_permitted, attempt, can_confine, start};

/// Asserts that a program without a sandbox can do all of `actions`, and one with this sandbox none.
#[track_caller]
fn check(sandbox: Value, actions: &[Value]) {
    let free = start(Value::Null);
    for action in actions {
        assert_permitted(&free, action.clone());
    }
    free.end();
    let confined = start(sandbox);
    for action in actions {
        assert_denied(&confined, action.clone());
    }
    confined.end();
}

#[test]
fn files_outside_the_sandbox_are_denied() {
    if !can_confine(3) {
        return;
    }
    let folder = Plugins::new();
    let secret = folder.dir().join("secret");
    let put = || fs::write(&secret, "x").expect("a file");
    put();
    check(
        json!({}),
        &[
            json!({ "do": "read", "path": "/etc/passwd" }),
            json!({ "do": "read", "path": secret }),
            json!({ "do": "list", "path": folder.dir() }),
            json!({ "do": "list", "path": "/" }),
            json!({ "do": "read", "path": "/proc/self/environ" }),
            json!({ "do": "read", "path": format!("/proc/{}/environ", std::process::id()) }),
            json!({ "do": "write", "path": secret }),
            json!({ "do": "write", "path": folder.dir().join("new") }),
            json!({ "do": "truncate", "path": secret }),
            json!({ "do": "chmod", "path": secret }),
        ],
    );
    let confined = start(json!({}));
    assert_denied(&confined, json!({ "do": "read", "path": "/etc/shadow" }));
    assert_denied(&confined, json!({ "do": "remove", "path": secret }));
    confined.end();
    assert!(secret.exists());
}

#[test]
fn sandboxed_files_cannot_be_changed_without_write() {
    if !can_confine(3) {
        return;
    }
    let folder = Plugins::new();
    let file = folder.dir().join("file");
    fs::write(&file, "text").expect("a file");
    let confined = start(json!({ "read": [folder.dir()] }));
    assert_permitted(&confined, json!({ "do": "read", "path": file }));
    assert_denied(&confined, json!({ "do": "write", "path": file }));
    assert_denied(&confined, json!({ "do": "truncate", "path": file }));
    assert_denied(&confined, json!({ "do": "link", "path": file, "to": folder.dir().join("b") }));
    let own = confined.fixture.file(&confined.fixture.name).join("plugin.json");
    assert_permitted(&confined, json!({ "do": "read", "path": own }));
    assert_denied(&confined, json!({ "do": "write", "path": own }));
    confined.end();
    assert_eq!(fs::read_to_string(&file).expect("the file"), "text");
}

#[test]
fn links_in_writable_folders_grant_nothing_after_a_restart() {
    if !can_confine(3) {
        return;
    }
    let folder = Plugins::new();
    let (own, secret) = (folder.dir().join("own"), folder.dir().join("secret"));
    fs::create_dir(&own).expect("a folder");
    fs::create_dir(&secret).expect("a folder");
    fs::write(secret.join("file"), "x").expect("a file");
    let (link, below) = (own.join("link"), own.join("link/file"));
    let confined = start(json!({ "write": [own, link], "read": [below], "run": [link] }));
    restart_after(&confined, || {
        std::os::unix::fs::symlink(&secret, &link).expect("a link");
    });
    assert_permitted(&confined, json!({ "do": "write", "path": own.join("new") }));
    assert_denied(&confined, json!({ "do": "read", "path": secret.join("file") }));
    assert_denied(&confined, json!({ "do": "write", "path": secret.join("new") }));
    confined.end();
}

#[test]
fn network_is_denied() {
    if !can_confine(0) {
        return;
    }
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (tcp, udp) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
    check(
        json!({}),
        &[
            json!({ "do": "connect", "address": tcp.to_string() }),
            json!({ "do": "listen", "address": "127.0.0.1:0" }),
            json!({ "do": "udp", "address": udp.to_string() }),
            json!({ "do": "socket", "family": libc::AF_NETLINK, "type": libc::SOCK_RAW,
                "protocol": 0 }),
        ],
    );
}

#[test]
fn ports_and_protocols_outside_the_sandbox_are_denied() {
    if !can_confine(4) {
        return;
    }
    let listener = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let (open, closed) = (listener(), listener());
    let (open, closed) = (open.local_addr().expect("bound"), closed.local_addr().expect("bound"));
    let connect = json!([open.port()]);
    let confined = start(json!({ "net": { "connect": connect } }));
    assert_permitted(&confined, json!({ "do": "connect", "address": open.to_string() }));
    assert_denied(&confined, json!({ "do": "connect", "address": closed.to_string() }));
    assert_denied(&confined, json!({ "do": "listen", "address": "127.0.0.1:0" }));
    assert_denied(&confined, json!({ "do": "udp", "address": open.to_string() }));
    for (kind, protocol) in [
        (libc::SOCK_RAW, libc::IPPROTO_TCP),
        (libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        (libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        (libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP),
    ] {
        let socket =
            json!({ "do": "socket", "family": libc::AF_INET, "type": kind, "protocol": protocol });
        assert_denied(&confined, socket);
    }
    confined.end();
}

#[test]
fn programs_are_denied() {
    if !can_confine(1) {
        return;
    }
    check(
        json!({}),
        &[
            json!({ "do": "run", "path": "/bin/sh" }),
            json!({ "do": "run", "path": "/usr/bin/env" }),
            json!({ "do": "syscall", "number": libc::SYS_memfd_create,
                "arguments": [0x4000_0000, 0] }),
        ][..2],
    );
}

#[test]
fn other_processes_are_out_of_reach() {
    if !can_confine(6) {
        return;
    }
    let host = std::process::id();
    let name = unique("abstract");
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = UnixListener::bind_addr(&address).expect("a socket");
    let set_limit = json!({ "do": "syscall", "number": libc::SYS_prlimit64,
        "arguments": [host, libc::RLIMIT_NOFILE, 0, 0] });
    check(
        json!({}),
        &[
            json!({ "do": "signal", "pid": host, "signal": 0 }),
            json!({ "do": "abstract", "name": name }),
            set_limit,
        ],
    );
    let confined = start(json!({}));
    let group = json!({ "do": "signal", "pid": 1, "signal": 0 });
    assert_denied(&confined, group);
    for (number, arguments) in [
        (libc::SYS_ptrace, json!([16, host])),
        (libc::SYS_process_vm_readv, json!([host])),
        (libc::SYS_kcmp, json!([host, host])),
        (libc::SYS_pidfd_getfd, json!([0, 0])),
    ] {
        let call = json!({ "do": "syscall", "number": number, "arguments": arguments });
        assert_eq!(attempt(&confined, call), format!("denied {}", libc::EPERM));
    }
    let memory = json!({ "do": "read", "path": format!("/proc/{host}/mem") });
    assert_denied(&confined, memory);
    confined.end();
}

#[test]
fn system_calls_that_leave_sandboxes_are_denied() {
    if !can_confine(0) {
        return;
    }
    let confined = start(json!({}));
    let new_user = i64::from(libc::CLONE_NEWUSER);
    for (number, arguments, code) in [
        (libc::SYS_io_uring_setup, json!([1]), libc::ENOSYS),
        (libc::SYS_io_uring_enter, json!([]), libc::ENOSYS),
        (libc::SYS_clone3, json!([]), libc::ENOSYS),
        (libc::SYS_keyctl, json!([]), libc::EPERM),
        (libc::SYS_add_key, json!([]), libc::EPERM),
        (libc::SYS_request_key, json!([]), libc::EPERM),
        (libc::SYS_unshare, json!([new_user]), libc::EPERM),
        (libc::SYS_clone, json!([new_user | i64::from(libc::SIGCHLD)]), libc::EPERM),
        (libc::SYS_setns, json!([]), libc::EPERM),
        (libc::SYS_mount, json!([]), libc::EPERM),
        (libc::SYS_bpf, json!([]), libc::EPERM),
        (libc::SYS_userfaultfd, json!([]), libc::EPERM),
        (libc::SYS_perf_event_open, json!([]), libc::EPERM),
        (libc::SYS_open_by_handle_at, json!([]), libc::EPERM),
        (libc::SYS_memfd_create, json!([0, 0]), libc::EPERM),
        (libc::SYS_setsid, json!([]), libc::EPERM),
        (libc::SYS_shmget, json!([1, 4096, 0o1600]), libc::EPERM),
        (libc::SYS_mq_open, json!([]), libc::EPERM),
        // `fchmodat2` and `setxattrat`, which older versions of `libc` do not name.
        (452, json!([-1]), libc::EPERM),
        (463, json!([-1]), libc::EPERM),
        (libc::SYS_ioctl, json!([0, libc::TIOCSTI]), libc::EPERM),
        // `FS_IOC_SETFLAGS`.
        (libc::SYS_ioctl, json!([0, 0x4008_6602]), libc::EPERM),
        // Connects past the rules of Landlock.
        (libc::SYS_sendto, json!([-1, 0, 0, libc::MSG_FASTOPEN]), libc::EPERM),
        (libc::SYS_sendmsg, json!([-1, 0, libc::MSG_FASTOPEN]), libc::EPERM),
        (libc::SYS_sendmmsg, json!([-1, 0, 0, libc::MSG_FASTOPEN]), libc::EPERM),
        // The priority of all processes of a user.
        (libc::SYS_setpriority, json!([libc::PRIO_USER, 0, 1]), libc::EPERM),
        (libc::SYS_ioprio_set, json!([3, 0]), libc::EPERM),
        (libc::SYS_kexec_file_load, json!([]), libc::EPERM),
        // A host that runs as root gives no capabilities.
        (libc::SYS_setuid, json!([12345]), libc::EPERM),
        (libc::SYS_setgroups, json!([0, 0]), libc::EPERM),
    ] {
        let call = json!({ "do": "syscall", "number": number, "arguments": arguments });
        assert_eq!(attempt(&confined, call.clone()), format!("denied {code}"), "{call}");
    }
    // The lowest one: without capabilities, none can be raised.
    let own = json!([libc::PRIO_PROCESS, 0, 19]);
    let call = json!({ "do": "syscall", "number": libc::SYS_setpriority, "arguments": own });
    assert_permitted(&confined, call);
    confined.end();
}

#[test]
fn descriptors_of_the_host_are_not_inherited() {
    let file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut &file, b"secret").expect("written");
    let open = inheritable(&file);
    let confined = start(json!({}));
    assert_eq!(attempt(&confined, json!({ "do": "descriptors" })), "0");
    confined.end();
    drop(open);
}

/// Returns a descriptor of `file` that stays open when a child executes a program.
fn inheritable(file: &File) -> std::os::fd::OwnedFd {
    let duplicate = rustix::io::dup(file).expect("a descriptor");
    assert!(
        !rustix::io::fcntl_getfd(&duplicate).expect("flags").contains(rustix::io::FdFlags::CLOEXEC)
    );
    assert!(duplicate.as_raw_fd() > 2);
    duplicate
}

#[test]
fn only_listed_variables_are_passed() {
    let confined = start(json!({}));
    let names = attempt(&confined, json!({ "do": "environment" }));
    let is_usual = |name: &&str| {
        name.starts_with("HOTBAY_")
            || name.starts_with("LC_")
            || ["PATH", "LANG", "TMPDIR"].contains(name)
    };
    let unusual: Vec<_> = names.split(' ').filter(|name| !is_usual(name)).collect();
    assert!(unusual.is_empty(), "{unusual:?}");
    confined.end();
}

#[test]
fn isolated_library_is_confined_like_a_program() {
    if !can_confine(4) {
        return;
    }
    let plugins = Plugins::new();
    let plugin = plugins.add("confined", "confined").set("isolation", "process");
    let folder = plugin.set("sandbox", json!({ "limits": { "processes": 1 } })).write();
    let host = hotbay_tests::host(&plugins);
    let handle = hotbay_tests::loaded(&host, folder.clone());
    let attempt = |action: Value| {
        let reply = handle.call(hotbay::Request::json_text(&action.to_string()));
        let reply = reply.unwrap_or_else(|error| panic!("{action}: {}", error.full_message()));
        reply.as_text().expect("text").to_owned()
    };
    for action in [
        json!({ "do": "read", "path": "/etc/passwd" }),
        json!({ "do": "listen", "address": "127.0.0.1:0" }),
        json!({ "do": "run", "path": "/usr/bin/env" }),
        json!({ "do": "write", "path": folder.join("new") }),
        json!({ "do": "signal", "pid": std::process::id(), "signal": 0 }),
    ] {
        let outcome = attempt(action.clone());
        assert!(outcome.starts_with("denied "), "{action}: {outcome}");
    }
    assert_eq!(attempt(json!({ "do": "read", "path": folder.join("plugin.json") })), "permitted");
    assert_eq!(attempt(json!({ "do": "processes", "count": 2 })), "0");
}
