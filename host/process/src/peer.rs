//! Checks that a confined program listens itself at its location: the host, which is not confined, must
//! not connect to a socket of another program for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::child::Child;
use crate::location::{self, Listener};
use crate::socket_creator::{Creator, creator};
use crate::usage::{Meter, ProcessTable};

/// Whose sockets a client may connect to.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Anyone,
    Program {
        /// The group of all its processes, which confined ones cannot leave.
        group: Pid,
        meter: Arc<Meter>,
    },
}

/// Why a connection or a location is refused.
pub(crate) const FOREIGN: &str =
    "the socket belongs to a process of another program, which its sandbox does not grant";
pub(crate) const NOT_LISTENING: &str = "the program does not listen there";
const HIDDEN: &str = "the open files of the program cannot be read, so its ports are not known";
const EXITED: &str = "the process that created the socket has exited, so its owner is not known";

impl Peer {
    /// Returns whose socket the location of a child must be. Systems that confine no programs cannot
    /// find that out.
    pub(crate) fn of(child: &Child, is_confined: bool) -> io::Result<Self> {
        if !is_confined || cfg!(not(target_os = "linux")) {
            return Ok(Self::Anyone);
        }
        let (group, _) = child.group();
        let group = group.ok_or_else(|| denied("the program has exited"))?;
        Ok(Self::Program { group, meter: Arc::new(Meter::new(child)) })
    }

    /// Checks which process listens on the other end of a new Unix socket. The path could lead to
    /// another socket since the last connection.
    pub(crate) fn check(&self, socket: impl AsFd) -> io::Result<()> {
        let Self::Program { group, .. } = self else { return Ok(()) };
        let process = match creator(socket)? {
            Creator::Running(process) => process,
            Creator::Exited => return Err(denied(EXITED)),
            Creator::Invisible => return Err(denied(FOREIGN)),
        };
        match rustix::process::getpgid(Some(process)) {
            Ok(found) if found == *group => Ok(()),
            Err(Errno::SRCH) => Err(denied(EXITED)),
            _ => Err(denied(FOREIGN)),
        }
    }

    /// Checks which processes listen at an address, to which a TCP socket was connected: the program
    /// could have closed its port since the last connection. Blocks for a moment.
    pub(crate) fn check_port(&self, address: SocketAddr) -> io::Result<()> {
        match self.is_own_port(address)? {
            true => Ok(()),
            false => Err(denied(NOT_LISTENING)),
        }
    }

    /// Returns whether processes of the program listen at a TCP address; `false` if nothing listens
    /// there. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if others listen there, or that is not known.
    pub(crate) fn is_own_port(&self, address: SocketAddr) -> io::Result<bool> {
        let Self::Program { meter, .. } = self else { return Ok(true) };
        let listener = || location::listener(&meter.processes(&ProcessTable::default()), address);
        let found = match listener() {
            // A process of the program may have started or exited meanwhile.
            Listener::Foreign => listener(),
            found => found,
        };
        match found {
            Listener::Own => Ok(true),
            Listener::Nothing => Ok(false),
            Listener::Foreign => Err(denied(FOREIGN)),
            Listener::Unknown => Err(denied(HIDDEN)),
        }
    }
}

fn denied(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
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
        let of_group = |group| Peer::Program { group, meter: Arc::default() };
        let own = rustix::process::getpgrp();
        of_group(own).check(&socket).expect("this process listens");
        Peer::Anyone.check(&socket).expect("nothing is checked");
        // No process is in the group of one that never existed.
        let other = Pid::from_raw(i32::MAX).expect("positive");
        let error = of_group(other).check(&socket).expect_err("this process listens");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn port_of_another_program_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let check = |process: i32| {
            let meter = Arc::new(Meter::of_process(process));
            Peer::Program { group: Pid::INIT, meter }.check_port(address)
        };
        check(std::process::id().cast_signed()).expect("this process listens");
        let error = check(i32::MAX).expect_err("this process listens");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
