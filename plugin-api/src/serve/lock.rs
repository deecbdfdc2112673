//! The lock file beside a socket: the id of the process that owns the socket, in decimal digits.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// State of the files at the path of a socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No file exists.
    Nothing,
    /// The process that the lock names has exited; both files can be removed.
    Stale,
    /// A socket without a lock, whose owner is unknown.
    SocketWithoutLock,
    /// The lock contains no process id.
    Unreadable(String),
    /// The process that the lock names is alive.
    Taken(i32),
}

/// Classifies the files. A lock with the id of this process is left over from an earlier process.
pub(super) fn judge(
    socket_is_there: bool,
    lock: Option<&str>,
    own: i32,
    is_alive: impl Fn(i32) -> bool,
) -> Found {
    let Some(lock) = lock else {
        return if socket_is_there { Found::SocketWithoutLock } else { Found::Nothing };
    };
    match lock.trim().parse() {
        Ok(pid) if pid > 0 && pid != own && is_alive(pid) => Found::Taken(pid),
        Ok(pid) if pid > 0 => Found::Stale,
        _ => Found::Unreadable(lock.chars().take(40).collect()),
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
    /// A message for people if another process owns the socket, or on I/O errors.
    pub(super) fn take(socket: &Path) -> Result<Self, String> {
        let path = beside(socket);
        let told = |error: io::Error| format!("`{}`: {error}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(told(error)),
        };
        let own = std::process::id().cast_signed();
        let found = judge(socket.symlink_metadata().is_ok(), text.as_deref(), own, is_alive);
        if found == Found::Stale {
            remove(&path).and_then(|()| remove(socket)).map_err(told)?;
        }
        let (lock, socket) = (path.display(), socket.display());
        match found {
            Found::Nothing | Found::Stale => {}
            Found::SocketWithoutLock => {
                return Err(format!(
                    "socket `{socket}` already exists without its lock `{lock}`; remove it if no \
                     program uses it"
                ));
            }
            Found::Unreadable(text) => {
                return Err(format!(
                    "invalid lock `{lock}`: expected a process id, found `{text}`; remove it and \
                     `{socket}` if no program uses them"
                ));
            }
            Found::Taken(pid) => {
                return Err(format!(
                    "socket `{socket}` is in use by process {pid}; stop that process, or start \
                     this one with another `id`"
                ));
            }
        }
        put(&path, own).map_err(|error| match error.kind() {
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

fn beside(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Creates the lock file atomically, together with its content.
fn put(path: &Path, own: i32) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{own}"));
    let draft = PathBuf::from(draft);
    remove(&draft)?;
    let written = fs::File::create_new(&draft).and_then(|mut file| write!(file, "{own}"));
    let put = written.and_then(|()| fs::hard_link(&draft, path));
    remove(&draft)?;
    put
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_alive(pid: i32) -> bool {
    // A process that may not be signalled is alive, too.
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_status_depends_on_whether_its_process_lives() {
        let lives = |pid| pid == 7 || pid == 9;
        for (socket, lock, wanted) in [
            (false, None, Found::Nothing),
            (true, None, Found::SocketWithoutLock),
            (true, Some("7"), Found::Taken(7)),
            (false, Some("7\n"), Found::Taken(7)),
            (true, Some("8"), Found::Stale),
            (false, Some("8"), Found::Stale),
            (true, Some("9"), Found::Stale),
            (true, Some(""), Found::Unreadable(String::new())),
            (true, Some("-1"), Found::Unreadable("-1".to_owned())),
            (true, Some("me"), Found::Unreadable("me".to_owned())),
        ] {
            assert_eq!(judge(socket, lock, 9, lives), wanted, "{lock:?}");
        }
    }
}
