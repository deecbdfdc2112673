//! Finds ports that are open to other machines. Linux only.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest table that is read.
const MAX_TABLE_BYTES: u64 = 8 << 20;

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    address: SocketAddr,
    inode: u64,
}

/// Returns the addresses on which `port` is listening, in the network namespace of process `pid`.
pub(super) fn listening(pid: u32, port: u16) -> Vec<IpAddr> {
    let listed = all_listed(pid).into_iter().map(|listed| listed.address);
    listed.filter(|address| address.port() == port).map(|address| address.ip()).collect()
}

/// Returns the addresses beyond loopback on which a process itself listens; `None` if no listening
/// socket of it was found, so that nothing is known.
pub(super) fn beyond_loopback(pid: u32) -> Option<Vec<SocketAddr>> {
    let own = inodes(pid);
    if own.is_empty() {
        return None;
    }
    let mut listed = all_listed(pid);
    listed.retain(|listed| own.contains(&listed.inode));
    let addresses: Vec<_> = listed.into_iter().map(|listed| listed.address).collect();
    let beyond = addresses.iter().copied().filter(|address| !address.ip().is_loopback());
    (!addresses.is_empty()).then(|| beyond.collect())
}

/// Returns the inodes of the sockets that a process has open.
fn inodes(pid: u32) -> BTreeSet<u64> {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    let inode = |file: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let target = std::fs::read_link(file.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    files.filter_map(inode).collect()
}

fn all_listed(pid: u32) -> Vec<Listed> {
    let read = |table: &str| {
        let mut text = String::new();
        let file = File::open(format!("/proc/{pid}/net/{table}")).ok()?;
        file.take(MAX_TABLE_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    };
    ["tcp", "tcp6"].into_iter().filter_map(read).flat_map(|text| listed(&text)).collect()
}

/// Parses the listening sockets of a table such as `/proc/net/tcp`.
fn listed(table: &str) -> Vec<Listed> {
    const LISTEN: &str = "0A";
    let lines = table.lines().skip(1).filter_map(|line| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn table_lists_listening_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1\n\
            1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000\n\
            2: 0100007F:1F92 0100007F:1F91 01 00000000:00000000 00:00000000 00000000 0 0 4712 1\n";
        let at = |address: &str, inode| Listed { address: address.parse().unwrap(), inode };
        assert_eq!(listed(table), [at("0.0.0.0:8080", 4711), at("127.0.0.1:8081", 0)]);
        let six = "sl\n 0: 00000000000000000000000001000000:0050 0:0 0A\n 1: \
            00000000000000000000000000000000:0051 0:0 0A\n 2: \
            0000000000000000FFFF00000100007F:0052 0:0 0A\n 3: short:0053 0:0 0A\n";
        assert_eq!(listed(six), [at("[::1]:80", 0), at("[::]:81", 0), at("127.0.0.1:82", 0)]);
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
    }
}
