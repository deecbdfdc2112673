//! The file beside a socket that says whose it is: the id of a process, in decimal digits.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// What is found where a program wants to put its socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A lock of a process that has ended; its files can go.
    Stale,
    /// A socket that says not whose it is.
    SocketWithoutLock,
    /// A lock that names no process.
    Unreadable(String),
    /// A lock of a process that lives.
    Taken(i32),
}

/// What the files say. A lock of this very process was left by one that had its id before.
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

/// A lock that this process holds; its file goes with it.
#[derive(Debug)]
pub(super) struct Lock(PathBuf);

impl Lock {
    /// Takes the lock beside a socket, and removes what a dead process left there.
    ///
    /// # Errors
    ///
    /// Who has it, or what the system says, for people.
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
                    "`{socket}` is there without `{lock}`: whose it is, is not known; remove it \
                     if no program uses it"
                ));
            }
            Found::Unreadable(text) => {
                return Err(format!(
                    "`{lock}` holds `{text}`, wanted the id of a process; remove it and \
                     `{socket}` if no program uses them"
                ));
            }
            Found::Taken(pid) => {
                return Err(format!(
                    "`{socket}` belongs to the process {pid}, which lives; end it first, or \
                     start this one under another `id`"
                ));
            }
        }
        put(&path, own).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => format!("`{lock}` was taken by another just now"),
            _ => format!("`{lock}` cannot be written: {error}"),
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

/// The file appears with what it holds, or not at all.
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
    // Whoever may not be asked is alive too.
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_judged_by_whether_its_process_lives() {
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
