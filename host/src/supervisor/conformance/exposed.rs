//! Whether a port is open to other machines, as Linux lists it. Elsewhere nobody can tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses at which `port` is listened at, in the network of this process.
pub(super) fn listening(pid: u32, port: u16) -> Vec<IpAddr> {
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{pid}/net/{table}"));
    let texts = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok());
    texts.flat_map(|text| listed(&text, port)).collect()
}

/// The addresses at which `port` is listened at, of a table such as `/proc/net/tcp`.
fn listed(table: &str, port: u16) -> Vec<IpAddr> {
    const LISTEN: &str = "0A";
    let lines = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (address, number) = words.next()?.split_once(':')?;
        let is_listening = words.nth(1)? == LISTEN;
        let is_it = u16::from_str_radix(number, 16) == Ok(port);
        (is_listening && is_it).then(|| address_of(address)).flatten()
    });
    lines.collect()
}

/// Each 32 bits stand in the order of the machine.
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
    fn a_table_of_the_system_tells_who_listens_where() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000\n\
            1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000\n\
            2: 0100007F:1F92 0100007F:1F91 01 00000000:00000000 00:00000000\n";
        let all: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        assert_eq!(listed(table, 0x1F90), [all]);
        assert_eq!(listed(table, 0x1F91), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert!(listed(table, 0x1F92).is_empty());
        let six = "sl\n 0: 00000000000000000000000001000000:0050 0:0 0A\n 1: \
            00000000000000000000000000000000:0051 0:0 0A\n 2: \
            0000000000000000FFFF00000100007F:0052 0:0 0A\n 3: short:0053 0:0 0A\n";
        assert_eq!(listed(six, 0x50), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(listed(six, 0x51), [IpAddr::from(Ipv6Addr::UNSPECIFIED)]);
        assert_eq!(listed(six, 0x52), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert!(listed(six, 0x53).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = listening(std::process::id(), port);
        assert_eq!(found, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    }
}
