//! A port of a sandbox, in the form of the file.

use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

/// A port, and the address that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct NetRule {
    /// Whether it is a UDP port. Most kernels do not restrict UDP ports: it then permits all of them.
    pub udp: bool,
    /// The only address; `None` means any. Kernels check the port only.
    pub address: Option<IpAddr>,
    /// The port. To listen on port 0 means a free port.
    pub port: u16,
}

impl NetRule {
    /// Returns the TCP port of any address.
    pub const fn tcp(port: u16) -> Self {
        Self { udp: false, address: None, port }
    }

    /// Parses `443`, `127.0.0.1:5432`, `[::1]:5432` or `udp:53`.
    pub fn parse(text: &str) -> Option<Self> {
        let (udp, rest) = match text.strip_prefix("udp:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if let Some(port) = parse_port(rest) {
            return Some(Self { udp, address: None, port });
        }
        let (address, port) = rest.rsplit_once(':')?;
        let address = match address.strip_prefix('[') {
            Some(address) => IpAddr::V6(address.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(address.parse().ok()?),
        };
        Some(Self { udp, address: Some(address), port: parse_port(port)? })
    }

    /// Returns whether this rule, as a bound, includes what `other` permits.
    pub fn includes(&self, other: &Self) -> bool {
        self.udp == other.udp
            && self.port == other.port
            && self.address.is_none_or(|address| other.address == Some(address))
    }

    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(port) => port.as_u64()?.try_into().ok().map(Self::tcp),
            Value::String(text) => Self::parse(text),
            _ => None,
        }
    }

    pub(crate) fn to_json(self) -> Value {
        match self {
            Self { udp: false, address: None, port } => port.into(),
            _ => self.to_string().into(),
        }
    }
}

impl fmt::Display for NetRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.udp {
            f.write_str("udp:")?;
        }
        match self.address {
            None => write!(f, "{}", self.port),
            Some(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

/// Parses a port; unlike `u16::from_str`, without a sign.
fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_ports_include_narrower_ones() {
        let rule = |text: &str| NetRule::parse(text).expect(text);
        assert!(rule("443").includes(&rule("443")));
        assert!(rule("443").includes(&rule("127.0.0.1:443")));
        assert!(!rule("127.0.0.1:443").includes(&rule("443")));
        assert!(!rule("443").includes(&rule("udp:443")));
        assert!(!rule("443").includes(&rule("80")));
    }
}
