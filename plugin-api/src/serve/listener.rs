//! The listener: a Unix socket with its lock file, or a TCP port on the loopback interface.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use hotbay_protocol::SocketKind;
use hotbay_protocol::location::{TCP_PREFIX, UNIX_PREFIX};
use rustix::fs::Mode;
use rustix::net::{Shutdown, shutdown};
use rustix::process::umask;

use super::lock::{Lock, StartError};
use super::settings::Settings;
use crate::wire::Stream;

/// A listening socket. Its files are removed on drop.
#[derive(Debug)]
pub(super) enum Listener {
    Unix {
        listener: UnixListener,
        socket: SocketFile,
        // Dropped after `socket`: the name is reserved as long as the lock exists.
        _lock: Lock,
    },
    Tcp(TcpListener),
}

/// The file of a Unix socket, removed on drop.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl SocketFile {
    fn remove(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Listener {
    /// Listens as the settings require: a Unix socket is created in `folder` if the host gave one.
    ///
    /// # Errors
    ///
    /// Fails if the socket exists or cannot be created.
    pub(super) fn open(settings: &Settings, folder: Option<&OsStr>) -> Result<Self, StartError> {
        match settings.socket_kind {
            SocketKind::Unix => Self::listen_unix(socket_path(&settings.id, folder)),
            SocketKind::Tcp => Self::listen_tcp(),
        }
    }

    fn listen_unix(socket: PathBuf) -> Result<Self, StartError> {
        let lock = Lock::acquire(&socket)?;
        // Only this user may connect, even if the folder is shared. The mask is process-wide, but
        // no other code of this program creates files yet.
        let previous_mask = umask(Mode::RWXG | Mode::RWXO);
        let listener = UnixListener::bind(&socket);
        umask(previous_mask);
        let listener = listener
            .map_err(|error| format!("cannot listen on `{}`: {error}", socket.display()))?;
        let listener = Self::Unix { listener, socket: SocketFile(socket), _lock: lock };
        listener.set_nonblocking().map_err(|error| error.to_string())?;
        Ok(listener)
    }

    fn listen_tcp() -> Result<Self, StartError> {
        let failed = |error| format!("cannot listen on a port on 127.0.0.1: {error}");
        let listener = Self::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?);
        listener.set_nonblocking().map_err(failed)?;
        Ok(listener)
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix { listener, .. } => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    /// Returns the URL at which a host reaches the program.
    ///
    /// # Errors
    ///
    /// I/O errors of the system.
    pub(super) fn location(&self) -> io::Result<String> {
        match self {
            Self::Unix { socket, .. } => Ok(format!("{UNIX_PREFIX}{}", socket.0.display())),
            Self::Tcp(listener) => Ok(format!("{TCP_PREFIX}{}", listener.local_addr()?)),
        }
    }

    /// Accepts a pending connection.
    ///
    /// # Errors
    ///
    /// I/O errors of the system; `WouldBlock` if no connection is pending.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix { listener, .. } => Stream::try_from(listener.accept()?.0),
            Self::Tcp(listener) => Stream::try_from(listener.accept()?.0),
        }
    }

    /// Stops listening; pending connections can still be accepted.
    pub(super) fn close(&self) {
        if let Self::Unix { listener, socket, .. } = self {
            socket.remove();
            // Refuses clients that had found the name before it was removed.
            let _ = shutdown(listener, Shutdown::Read);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix { listener, .. } => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Returns an unpredictable path in the host's folder, or else the fixed path in the temporary
/// folder.
fn socket_path(id: &str, folder: Option<&OsStr>) -> PathBuf {
    match folder.filter(|folder| !folder.is_empty()) {
        Some(folder) => {
            // The keys of `RandomState` are random bytes of the system.
            let random = RandomState::new().build_hasher().finish();
            Path::new(folder).join(format!("{random:016x}.socket"))
        }
        None => env::temp_dir().join(format!("{id}-plugin.socket")),
    }
}
