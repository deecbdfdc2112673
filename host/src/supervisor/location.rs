//! Parses the location that a program prints when it listens. Pure; does not connect.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Longest socket path that the kernel accepts; `sun_path` also holds a NUL.
pub(crate) const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The address where a program listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
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
    /// It listens on this host, which is not this machine: plugins are not called over a network.
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
            Self::Unix(path) => write!(f, "http+unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

impl Location {
    /// Returns the address of a line that is a location on all network interfaces.
    pub(crate) fn beyond_loopback(line: &str) -> Option<SocketAddr> {
        let text = line.trim();
        let text = text.strip_prefix("http://").unwrap_or(text);
        let (host, port) = host_and_port(text.strip_suffix('/').unwrap_or(text))?;
        let ip: IpAddr = host.parse().ok()?;
        ip.is_unspecified().then_some(SocketAddr::new(ip, port))
    }

    /// Parses one line of a program's stdout.
    pub(crate) fn parse(line: &str) -> Line {
        let line = line.trim();
        if let Some(path) = line.strip_prefix("http+unix://") {
            return unix(path);
        }
        if let Some(rest) = line.strip_prefix("http://") {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
}
