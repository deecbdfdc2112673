//! The listener: a Unix socket with its lock file, or a TCP port on the loopback interface.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use hotbay_protocol::location::{TCP_PREFIX, UNIX_PREFIX};
use hotbay_protocol::{SocketKind, lock_of};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, test_kill_process, umask};

use super::settings::Settings;
use super::socket::Socket;

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
    pub(super) fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Unix { listener, .. } => Socket::try_from(listener.accept()?.0),
            Self::Tcp(listener) => Socket::try_from(listener.accept()?.0),
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

/// State of the files at the path of a socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LockStatus {
    /// No file exists.
    Unused,
    /// The process that the lock names has exited; both files can be removed.
    Stale,
    /// A socket without a lock, whose owner is unknown.
    SocketWithoutLock,
    /// The lock contains no process id.
    Unreadable(String),
    /// The process that the lock names is alive.
    InUse(i32),
}

/// Classifies the files. A lock with the id of this process is left over from an earlier process.
pub(super) fn classify(
    socket_exists: bool,
    lock: Option<&str>,
    own_pid: i32,
    is_alive: impl Fn(i32) -> bool,
) -> LockStatus {
    let Some(lock) = lock else {
        return if socket_exists { LockStatus::SocketWithoutLock } else { LockStatus::Unused };
    };
    match lock.trim().parse() {
        Ok(pid) if pid > 0 && pid != own_pid && is_alive(pid) => LockStatus::InUse(pid),
        Ok(pid) if pid > 0 => LockStatus::Stale,
        _ => LockStatus::Unreadable(lock.chars().take(40).collect()),
    }
}

/// The reason a program did not start, for people.
#[derive(Debug)]
pub(super) struct StartError {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl From<String> for StartError {
    fn from(message: String) -> Self {
        Self { message, hint: None }
    }
}

/// A lock file of this process, removed on drop.
#[derive(Debug)]
pub(super) struct Lock(PathBuf);

impl Lock {
    /// Creates the lock file of a socket, and removes the files of a process that has exited.
    ///
    /// # Errors
    ///
    /// Fails if another process owns the socket, and on I/O errors.
    pub(super) fn acquire(socket: &Path) -> Result<Self, StartError> {
        let path = lock_of(socket);
        let failed = |error: io::Error| format!("cannot access `{}`: {error}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error).into()),
        };
        let own_pid = std::process::id().cast_signed();
        let status =
            classify(socket.symlink_metadata().is_ok(), text.as_deref(), own_pid, is_alive);
        if status == LockStatus::Stale {
            remove(&path).and_then(|()| remove(socket)).map_err(failed)?;
        }
        let (lock, socket) = (path.display(), socket.display());
        let rejected = match status {
            LockStatus::Unused | LockStatus::Stale => None,
            LockStatus::SocketWithoutLock => Some((
                format!("socket `{socket}` already exists without its lock `{lock}`"),
                "remove it if no program uses it".to_owned(),
            )),
            LockStatus::Unreadable(text) => Some((
                format!("invalid lock `{lock}`: expected a process id, found `{text}`"),
                format!("remove it and `{socket}` if no program uses them"),
            )),
            LockStatus::InUse(pid) => Some((
                format!("socket `{socket}` is in use by process {pid}"),
                "stop that process, or start this one with another `id`".to_owned(),
            )),
        };
        if let Some((message, hint)) = rejected {
            return Err(StartError { message, hint: Some(hint) });
        }
        create_lock(&path, own_pid).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("cannot create `{lock}`: another process has just created it")
            }
            _ => format!("cannot write `{lock}`: {error}"),
        })?;
        Ok(Self(path))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Creates the lock file atomically, together with its content.
fn create_lock(path: &Path, own_pid: i32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{own_pid}"));
    let temporary = PathBuf::from(temporary);
    remove(&temporary)?;
    let written = fs::File::create_new(&temporary).and_then(|mut file| write!(file, "{own_pid}"));
    let linked = written.and_then(|()| fs::hard_link(&temporary, path));
    remove(&temporary)?;
    linked
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_alive(pid: i32) -> bool {
    // A process that this user may not signal is alive too.
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_status_depends_on_whether_its_process_lives() {
        let is_alive = |pid| pid == 7 || pid == 9;
        for (socket, lock, expected) in [
            (false, None, LockStatus::Unused),
            (true, None, LockStatus::SocketWithoutLock),
            (true, Some("7"), LockStatus::InUse(7)),
            (false, Some("7\n"), LockStatus::InUse(7)),
            (true, Some("8"), LockStatus::Stale),
            (false, Some("8"), LockStatus::Stale),
            (true, Some("9"), LockStatus::Stale),
            (true, Some(""), LockStatus::Unreadable(String::new())),
            (true, Some("-1"), LockStatus::Unreadable("-1".to_owned())),
            (true, Some("me"), LockStatus::Unreadable("me".to_owned())),
        ] {
            assert_eq!(classify(socket, lock, 9, is_alive), expected, "{lock:?}");
        }
    }
}
