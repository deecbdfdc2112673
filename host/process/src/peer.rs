//! Checks that a confined program listens itself where it says: the host, which is not confined, must
//! not connect to a socket of another program for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::process::Pid;

use crate::child::Child;
use crate::location;
use crate::usage::{Meter, ProcessTable};

/// Whose sockets a client may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Anyone,
    /// The processes of this group, which confined processes cannot leave.
    Group(Pid),
}

/// Why a connection or a location is refused.
pub(crate) const FOREIGN: &str =
    "the socket belongs to a process of another program, which its sandbox does not grant";

impl Peer {
    /// Returns whose socket the location of a child must be.
    pub(crate) fn of(child: &Child, is_confined: bool) -> Self {
        match child.group() {
            (Some(group), _) if is_confined && cfg!(target_os = "linux") => Self::Group(group),
            _ => Self::Anyone,
        }
    }

    /// Checks which process listens on the other end of a new Unix socket. The path could lead to
    /// another socket since the last connection.
    pub(crate) fn check(self, socket: impl AsFd) -> io::Result<()> {
        let Self::Group(group) = self else { return Ok(()) };
        match listener(socket)? {
            Some(process) if rustix::process::getpgid(Some(process)) != Ok(group) => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, FOREIGN))
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether processes of the child listen at a TCP address, and no others; `None` if nothing
/// listens there yet. Blocks for a moment.
pub(crate) fn is_own_port(meter: &Meter, address: SocketAddr) -> Option<bool> {
    location::is_own_port(&meter.processes(&ProcessTable::default()), address)
}

/// Returns the process that listens; `None` if the system does not say.
#[cfg(target_os = "linux")]
fn listener(socket: impl AsFd) -> io::Result<Option<Pid>> {
    Ok(Some(rustix::net::sockopt::socket_peercred(socket)?.pid))
}

#[cfg(not(target_os = "linux"))]
fn listener(_: impl AsFd) -> io::Result<Option<Pid>> {
    Ok(None)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn socket_of_another_group_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.socket");
        let _listener = UnixListener::bind(&path).expect("a socket");
        let socket = UnixStream::connect(&path).expect("a connection");
        let own = rustix::process::getpgrp();
        Peer::Group(own).check(&socket).expect("this process listens");
        Peer::Anyone.check(&socket).expect("nothing is checked");
        // No process is in the group of one that never existed.
        let other = Pid::from_raw(i32::MAX).expect("positive");
        let error = Peer::Group(other).check(&socket).expect_err("this process listens");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
