//! Removes the socket and lock that a program of an older dialect leaves behind, if and only if
//! they are its own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::location::Location;

/// The longest lock file that is read; a process id is shorter.
const MAX_LOCK_BYTES: u64 = 64;

/// Removes the socket and the lock of an exited process, if the lock names that process.
pub(super) fn remove(location: &Location, pid: u32) {
    let Location::Unix(socket) = location else { return };
    let lock = lock_of(socket);
    if owner(&lock) != Some(pid) {
        return;
    }
    if fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
        // On failure the next start handles it, since it reads the lock.
        let _ = fs::remove_file(socket);
    }
    let _ = fs::remove_file(&lock);
}

fn lock_of(socket: &Path) -> PathBuf {
    let mut lock = OsString::from(socket);
    lock.push(".lock");
    lock.into()
}

/// Returns the process named by a lock, or `None` if it is not a file with a process id.
fn owner(lock: &Path) -> Option<u32> {
    let found = fs::symlink_metadata(lock).ok()?;
    if !found.is_file() || found.len() > MAX_LOCK_BYTES {
        return None;
    }
    fs::read_to_string(lock).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_files_of_the_process_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a-plugin.socket");
        let lock = folder.path().join("a-plugin.socket.lock");
        let location = Location::Unix(socket.clone());
        let check = |text: Option<&str>, expected: bool| {
            let _ = fs::remove_file(&socket);
            let _ = fs::remove_file(&lock);
            drop(UnixListener::bind(&socket).unwrap());
            if let Some(text) = text {
                fs::write(&lock, text).unwrap();
            }
            remove(&location, 4711);
            assert_eq!(!socket.exists(), expected, "{text:?}");
            assert_eq!(lock.exists(), text.is_some() && !expected, "{text:?}");
        };
        check(Some("4711"), true);
        check(Some("4711\n"), true);
        check(Some("4712"), false);
        check(Some(""), false);
        check(Some("x"), false);
        check(Some(&"4711".repeat(100)), false);
        check(None, false);
        // A file that is not a socket is not the process's own.
        fs::remove_file(&socket).unwrap();
        fs::write(&socket, "").unwrap();
        fs::write(&lock, "4711").unwrap();
        remove(&location, 4711);
        assert!(socket.exists() && !lock.exists());
    }
}
