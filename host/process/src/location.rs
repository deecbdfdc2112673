//! Where a program listens: the location that it prints, the ports of its process, and the socket
//! that it leaves behind. Does not connect.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use hotbay_protocol::location::{TCP_PREFIX, UNIX_PREFIX};
use hotbay_protocol::lock_of;

/// Longest socket path that the kernel accepts; `sun_path` also holds a NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The address where a program listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
    /// TCP on this machine; the address is always a loopback address.
    Tcp(SocketAddr),
}

/// A classified line of a program's stdout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Line {
    /// The location where it listens.
    Location(Location),
    /// It listens on another machine, with this name or address: plugins are not called over a
    /// network.
    NotLocal(String),
    /// A Unix socket path that no client can connect to; a shorter temporary folder helps.
    PathTooLong { path: PathBuf, found_bytes: usize, max_bytes: usize },
    /// An invalid location, with the reason, beginning with a verb. Reported if no valid one
    /// follows.
    Wrong(String),
    /// Any other line, to be logged.
    Noise,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
            Self::Tcp(address) => write!(f, "{TCP_PREFIX}{address}"),
        }
    }
}

impl Location {
    /// Returns the address of a line that is a location on all network interfaces.
    pub(crate) fn beyond_loopback(line: &str) -> Option<SocketAddr> {
        let text = line.trim();
        let text = text.strip_prefix(TCP_PREFIX).unwrap_or(text);
        let (host, port) = host_and_port(text.strip_suffix('/').unwrap_or(text))?;
        let ip: IpAddr = host.parse().ok()?;
        ip.is_unspecified().then_some(SocketAddr::new(ip, port))
    }

    /// Parses one line of a program's stdout.
    pub(crate) fn parse(line: &str) -> Line {
        let line = line.trim();
        if let Some(path) = line.strip_prefix(UNIX_PREFIX) {
            return unix(path);
        }
        if let Some(rest) = line.strip_prefix(TCP_PREFIX) {
            return http(rest);
        }
        bare(line)
    }
}

fn unix(text: &str) -> Line {
    let bytes = decoded(text);
    if !bytes.starts_with(b"/") {
        return Line::Wrong(format!("names the socket `{text}`; expected an absolute path"));
    }
    if bytes.contains(&0) {
        return Line::Wrong("names a socket with a NUL in its path".to_owned());
    }
    let found_bytes = bytes.len();
    let path = PathBuf::from(OsString::from_vec(bytes.into_owned()));
    if found_bytes > MAX_SOCKET_PATH_BYTES {
        return Line::PathTooLong { path, found_bytes, max_bytes: MAX_SOCKET_PATH_BYTES };
    }
    Line::Location(Location::Unix(path))
}

/// Parses the part after `http://`: a host, which may be a name, and a port.
fn http(text: &str) -> Line {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains(char::is_whitespace) {
        return Line::Noise;
    }
    if text.contains(['/', '?', '#']) {
        return Line::Wrong(format!("has a path: `http://{text}`; expected `http://HOST:PORT`"));
    }
    let Some((host, port)) = host_and_port(text) else {
        return Line::Wrong(format!("has no port: `http://{text}`; expected `http://HOST:PORT`"));
    };
    match loopback(host) {
        Host::Loopback(ip) => tcp(ip, port),
        Host::Elsewhere | Host::Name => Line::NotLocal(host.to_owned()),
    }
}

/// Parses a bare `HOST:PORT`. A name is noise here: `main.go:42` is not a location.
fn bare(text: &str) -> Line {
    let Some((host, port)) = host_and_port(text) else {
        return Line::Noise;
    };
    match loopback(host) {
        Host::Loopback(ip) => tcp(ip, port),
        Host::Elsewhere => Line::NotLocal(host.to_owned()),
        Host::Name => Line::Noise,
    }
}

fn tcp(ip: IpAddr, port: u16) -> Line {
    if port == 0 {
        return Line::Wrong("has the port 0; expected the port that was assigned".to_owned());
    }
    Line::Location(Location::Tcp(SocketAddr::new(ip, port)))
}

/// Splits at the last `:`, and removes the brackets of an IPv6 address.
fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    // `parse` alone would accept `+80`.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok()?;
    match host.strip_prefix('[') {
        Some(inside) => Some((inside.strip_suffix(']').filter(|ip| ip.contains(':'))?, port)),
        None if host.contains(':') => None,
        None => Some((host, port)),
    }
}

enum Host {
    Loopback(IpAddr),
    Elsewhere,
    Name,
}

fn loopback(host: &str) -> Host {
    let here = Host::Loopback(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if host.is_empty() || host.eq_ignore_ascii_case("localhost") {
        return here;
    }
    match host.parse::<IpAddr>() {
        // Go and Rust also accept IPv4 on `[::]`, and `::1` is missing in many containers.
        Ok(ip) if ip.is_unspecified() => here,
        Ok(ip) if ip.to_canonical().is_loopback() => Host::Loopback(ip.to_canonical()),
        Ok(_) => Host::Elsewhere,
        Err(_) => Host::Name,
    }
}

/// Replaces every valid `%XX` in `text`; any other `%` stays.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    let code_at = |at: usize| -> Option<u8> {
        let (high, low) = (bytes.get(at + 1)?, bytes.get(at + 2)?);
        let digit = |byte: u8| char::from(byte).to_digit(16);
        u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()
    };
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = if byte == b'%' { code_at(at) } else { None };
        decoded.push(code.unwrap_or(byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    Cow::Owned(decoded)
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    address: SocketAddr,
    inode: u64,
}

/// Returns the addresses on which `port` is listening, in the network namespace of process `pid`.
/// Linux only; other systems list none.
pub fn listening(pid: u32, port: u16) -> Vec<IpAddr> {
    let listed = all_listed(&pid.to_string()).into_iter().map(|listed| listed.address);
    listed.filter(|address| address.port() == port).map(|address| address.ip()).collect()
}

/// Returns the addresses beyond loopback on which a process itself listens; `None` if no listening
/// socket of it was found, so that nothing is known. Linux only.
pub(crate) fn beyond_loopback(pid: u32) -> Option<Vec<SocketAddr>> {
    let own = inodes(pid);
    if own.is_empty() {
        return None;
    }
    let mut listed = all_listed(&pid.to_string());
    listed.retain(|listed| own.contains(&listed.inode));
    let addresses: Vec<_> = listed.into_iter().map(|listed| listed.address).collect();
    let beyond = addresses.iter().copied().filter(|address| !address.ip().is_loopback());
    (!addresses.is_empty()).then(|| beyond.collect())
}

/// Who listens at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Nothing,
    Own,
    Foreign,
    /// The open files of one of the processes cannot be read.
    Unknown,
}

/// Returns whether these processes, and no others, listen at an address, to which this process would
/// connect. Linux only.
pub(crate) fn listener(processes: &[u32], address: SocketAddr) -> Listener {
    // The namespace from which this process connects.
    let accepting = accepting(all_listed("thread-self"), address);
    if accepting.is_empty() {
        return Listener::Nothing;
    }
    let own = processes.iter().flat_map(|process| inodes(*process)).collect::<BTreeSet<_>>();
    match accepting.iter().all(|listed| own.contains(&listed.inode)) {
        true => Listener::Own,
        false if processes.iter().any(|process| is_hidden(*process)) => Listener::Unknown,
        false => Listener::Foreign,
    }
}

/// Returns the sockets among which the kernel selects one for a connection to an address.
fn accepting(mut all: Vec<Listed>, address: SocketAddr) -> Vec<Listed> {
    all.retain(|listed| {
        let ip = listed.address.ip();
        listed.address.port() == address.port() && (ip == address.ip() || ip.is_unspecified())
    });
    // It prefers sockets of the same family. Without any, one of IPv6 can accept IPv4.
    let (same, other): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|listed| listed.address.is_ipv4() == address.is_ipv4());
    if same.is_empty() && address.is_ipv4() { other } else { same }
}

/// Returns whether the open files of a process that runs cannot be read.
fn is_hidden(pid: u32) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    files.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Returns the inodes of the sockets that a process has open.
fn inodes(pid: u32) -> BTreeSet<u64> {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let inode = |file: io::Result<std::fs::DirEntry>| -> Option<u64> {
        let target = std::fs::read_link(file.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    files.filter_map(inode).collect()
}

/// Lists the sockets of the network namespace of a process, by its name in `/proc`. The tables can be
/// long, but few sockets listen.
fn all_listed(process: &str) -> Vec<Listed> {
    let read = |table: &str| {
        let file = File::open(format!("/proc/{process}/net/{table}")).ok()?;
        Some(listed(BufReader::new(file)))
    };
    ["tcp", "tcp6"].into_iter().filter_map(read).flatten().collect()
}

/// Parses the listening sockets of a table such as `/proc/net/tcp`.
fn listed(table: impl BufRead) -> Vec<Listed> {
    const LISTEN: &str = "0A";
    let lines = table.lines().map_while(Result::ok).skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let is_listening = words.nth(1)? == LISTEN;
        let inode = words.nth(5).and_then(|inode| inode.parse().ok()).unwrap_or(0);
        let port = u16::from_str_radix(port, 16).ok()?;
        let address = SocketAddr::new(address_of(address)?, port);
        is_listening.then_some(Listed { address, inode })
    });
    lines.collect()
}

/// Parses an address, in which each 32-bit word has the machine's byte order.
fn address_of(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(digits.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if digits.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (at, four) in bytes.chunks_mut(4).enumerate() {
        four.copy_from_slice(&word(at)?);
    }
    Some(Ipv6Addr::from(bytes).to_canonical())
}

/// The longest lock file that is read; a process id is shorter.
const MAX_LOCK_BYTES: u64 = 64;

/// Removes the socket and the lock that an exited process of an older dialect left, if the lock
/// names that process.
pub(crate) fn remove_left(location: &Location, pid: u32) {
    let Location::Unix(socket) = location else { return };
    let lock = lock_of(socket);
    if owner(&lock) != Some(pid) {
        return;
    }
    if fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
        // On failure the next start handles it, since it reads the lock.
        let _ = fs::remove_file(socket);
    }
    let _ = fs::remove_file(&lock);
}

/// Returns the process named by a lock, or `None` if it is not a file with a process id.
fn owner(lock: &Path) -> Option<u32> {
    let found = fs::symlink_metadata(lock).ok()?;
    if !found.is_file() || found.len() > MAX_LOCK_BYTES {
        return None;
    }
    fs::read_to_string(lock).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixListener;

    fn check(line: &str, expect: Line) {
        assert_eq!(Location::parse(line), expect, "{line}");
    }

    fn at_path(path: &str) -> Line {
        Line::Location(Location::Unix(path.into()))
    }

    fn at(address: &str) -> Line {
        Line::Location(Location::Tcp(address.parse().unwrap()))
    }

    fn not_local(host: &str) -> Line {
        Line::NotLocal(host.to_owned())
    }

    #[test]
    fn socket_is_parsed_from_its_absolute_path() {
        check("http+unix:///tmp/x.socket", at_path("/tmp/x.socket"));
        check("  http+unix:///tmp/x.socket\r\n", at_path("/tmp/x.socket"));
        check("http+unix:///tmp/my dir/é", at_path("/tmp/my dir/é"));
        check("http+unix:///tmp/a%20b%2f", at_path("/tmp/a b/"));
        check("http+unix://%2Ftmp%2Fx", at_path("/tmp/x"));
        check("http+unix:///100%/%zz%4", at_path("/100%/%zz%4"));
        for line in ["http+unix://", "http+unix://tmp/x", "http+unix:///a%00b"] {
            assert!(matches!(Location::parse(line), Line::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn path_too_long_for_the_kernel_is_reported() {
        let fits = format!("/{}", "é".repeat(53));
        check(&format!("http+unix://{fits}"), at_path(&fits));
        let path = PathBuf::from(format!("{fits}x"));
        let expect = Line::PathTooLong { path: path.clone(), found_bytes: 108, max_bytes: 107 };
        check(&format!("http+unix://{}", path.display()), expect);
        // The decoded length counts.
        let fits = format!("/{}", "a".repeat(106));
        check(&format!("http+unix://%2F{}", &fits[1..]), at_path(&fits));
    }

    #[test]
    fn every_name_of_this_machine_becomes_a_loopback_address() {
        for host in
            ["127.0.0.1", "[::]", "0.0.0.0", "localhost", "LocalHost", "", "[::ffff:127.0.0.1]"]
        {
            check(&format!("{host}:4711"), at("127.0.0.1:4711"));
            check(&format!("http://{host}:4711"), at("127.0.0.1:4711"));
            check(&format!(" http://{host}:4711/ \r"), at("127.0.0.1:4711"));
        }
        check("[::1]:65535", at("[::1]:65535"));
        check("127.9.9.9:1", at("127.9.9.9:1"));
    }

    #[test]
    fn address_of_another_machine_is_not_local() {
        check("http://example.com:80", not_local("example.com"));
        check("http://192.168.1.7:80/", not_local("192.168.1.7"));
        check("192.168.1.7:80", not_local("192.168.1.7"));
        check("[fe80::1]:80", not_local("fe80::1"));
        check("http://127.0.0.1@example.com:80", not_local("127.0.0.1@example.com"));
    }

    #[test]
    fn invalid_location_is_reported_as_wrong() {
        for line in [
            "http://127.0.0.1:80/api",
            "http://127.0.0.1",
            "http://127.0.0.1:65536",
            "http://127.0.0.1:+80",
            "http://::1:80",
            "http://[127.0.0.1]:80",
            "127.0.0.1:0",
        ] {
            assert!(matches!(Location::parse(line), Line::Wrong(_)), "{line}");
        }
    }

    #[test]
    fn any_other_line_is_noise() {
        for line in [
            "",
            " ",
            ":",
            "::",
            "listening",
            "main.go:42",
            "error:1",
            "12:30",
            "a:b:1",
            "::1:80",
            "https://127.0.0.1:80",
            "see http://127.0.0.1:80",
            "http://127.0.0.1:80 is up",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:-1",
            "127.0.0.1:80 ok",
            "{\"msg\":\"x\"}",
        ] {
            check(line, Line::Noise);
        }
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_accepts_only_loopback(
            start in "|http://|http\\+unix:///|\\[", rest in "\\PC{0,40}|[0-9a-f:.\\[\\]%/@]{0,130}",
        ) {
            if let Line::Location(Location::Tcp(address)) = Location::parse(&format!("{start}{rest}")) {
                prop_assert!(address.ip().is_loopback() && address.port() != 0);
            }
        }

        #[test]
        fn every_short_path_is_parsed_in_any_encoding(path in "/[^\\x00%\\s]{0,20}") {
            let encoded: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let found = at_path(&path);
            prop_assert_eq!(Location::parse(&format!("http+unix://{path}")), found.clone());
            prop_assert_eq!(Location::parse(&format!("http+unix://{encoded}")), found);
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn table_lists_listening_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n\
            1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000\n\
            2: 0100007F:1F92 0100007F:1F91 01 00000000:00000000 00:00000000 00000000 0 0 4712 1\n";
        let at = |address: &str, inode| Listed { address: address.parse().unwrap(), inode };
        assert_eq!(listed(table.as_bytes()), [at("0.0.0.0:8080", 4711), at("127.0.0.1:8081", 0)]);
        let six = "sl\n 0: 00000000000000000000000001000000:0050 0:0 0A\n 1: \
            00000000000000000000000000000000:0051 0:0 0A\n 2: \
            0000000000000000FFFF00000100007F:0052 0:0 0A\n 3: short:0053 0:0 0A\n";
        let expected = [at("[::1]:80", 0), at("[::]:81", 0), at("127.0.0.1:82", 0)];
        assert_eq!(listed(six.as_bytes()), expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn listening_port_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = listening(std::process::id(), port);
        assert_eq!(found, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        let open = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let beyond = beyond_loopback(std::process::id()).unwrap();
        assert!(beyond.contains(&open.local_addr().unwrap()), "{beyond:?}");
        assert!(!beyond.contains(&listener.local_addr().unwrap()), "{beyond:?}");
        let check = |address| super::listener(&[std::process::id()], address);
        assert_eq!(check(listener.local_addr().unwrap()), Listener::Own);
        let open = (Ipv4Addr::LOCALHOST, open.local_addr().unwrap().port());
        assert_eq!(check(open.into()), Listener::Own);
        let nothing = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port));
        assert_eq!(check(nothing), Listener::Nothing);
        let six = SocketAddr::from((Ipv6Addr::LOCALHOST, open.1));
        assert_eq!(check(six), Listener::Nothing, "it accepts only IPv4");
    }

    #[test]
    fn every_socket_that_can_accept_a_connection_counts() {
        let at = |address: &str, inode| Listed { address: address.parse().unwrap(), inode };
        let all = [
            at("[::]:80", 1),
            at("[::]:80", 2),
            at("[::1]:80", 3),
            at("0.0.0.0:81", 4),
            at("127.0.0.1:81", 5),
            at("[::]:81", 6),
            at("127.0.0.2:81", 7),
        ];
        for (address, expected) in [
            ("127.0.0.1:80", &[1, 2][..]),
            ("[::1]:80", &[1, 2, 3]),
            ("127.0.0.1:81", &[4, 5]),
            ("[::1]:81", &[6]),
            ("127.0.0.1:82", &[]),
        ] {
            let found = accepting(all.to_vec(), address.parse().unwrap());
            let found: Vec<_> = found.iter().map(|listed| listed.inode).collect();
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn only_files_of_the_process_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a-plugin.socket");
        let lock = folder.path().join("a-plugin.socket.lock");
        let location = Location::Unix(socket.clone());
        let check = |text: Option<&str>, expected: bool| {
            let _ = fs::remove_file(&socket);
            let _ = fs::remove_file(&lock);
            drop(UnixListener::bind(&socket).unwrap());
            if let Some(text) = text {
                fs::write(&lock, text).unwrap();
            }
            remove_left(&location, 4711);
            assert_eq!(!socket.exists(), expected, "{text:?}");
            assert_eq!(lock.exists(), text.is_some() && !expected, "{text:?}");
        };
        check(Some("4711"), true);
        check(Some("4711\n"), true);
        check(Some("4712"), false);
        check(Some(""), false);
        check(Some("x"), false);
        check(Some(&"4711".repeat(100)), false);
        check(None, false);
        // A file that is not a socket is not the process's own.
        fs::remove_file(&socket).unwrap();
        fs::write(&socket, "").unwrap();
        fs::write(&lock, "4711").unwrap();
        remove_left(&location, 4711);
        assert!(socket.exists() && !lock.exists());
    }
}
