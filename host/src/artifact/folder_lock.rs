//! A lock on a folder, held by the process that made it. It is gone with the process, however
//! that ended, and means the same in every PID namespace; so it tells who still owns a folder.

use std::fs::File;
use std::io;
use std::path::Path;

/// Held until it is dropped, or until the process ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    /// Closed when a child of this process executes a program.
    _folder: File,
}

impl FolderLock {
    /// Takes the lock of a folder, without waiting; `None` if another owner holds it.
    ///
    /// Does not follow a link.
    #[cfg(unix)]
    pub(crate) fn take(folder: &Path) -> io::Result<Option<Self>> {
        use std::os::unix::fs::OpenOptionsExt;

        use rustix::fs::{FlockOperation, flock};
        use rustix::io::Errno;

        let mut options = File::options();
        options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
        let folder = options.open(folder)?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _folder: folder })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Folders cannot be locked here; none is swept either.
    #[cfg(not(unix))]
    pub(crate) fn take(folder: &Path) -> io::Result<Option<Self>> {
        Ok(Some(Self { _folder: tempfile::tempfile_in(folder)? }))
    }

    /// Makes a folder by `make` and takes its lock, before a sweep can take it for abandoned.
    pub(crate) fn made<T>(
        make: impl Fn() -> io::Result<T>,
        path: impl Fn(&T) -> &Path,
    ) -> io::Result<(T, Self)> {
        // A sweep can lock a folder, and remove it, between its making and its locking.
        const TRIES_MAX: usize = 64;
        let mut removed = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..TRIES_MAX {
            let made = match make() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    removed = error;
                    continue;
                }
                made => made?,
            };
            let folder = path(&made);
            let lock = match Self::take(folder) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            // It was not removed before it was locked, so it stays from here on.
            if let Some(lock) = lock.filter(|_| folder.is_dir()) {
                return Ok((made, lock));
            }
        }
        Err(removed)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn lock_has_one_owner_until_it_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = FolderLock::take(folder.path()).expect("a lock");
        assert!(first.is_some());
        assert!(FolderLock::take(folder.path()).expect("no error").is_none());
        drop(first);
        assert!(FolderLock::take(folder.path()).expect("no error").is_some());
        assert!(FolderLock::take(&folder.path().join("none")).is_err());
    }

    #[test]
    fn folder_that_was_removed_before_its_lock_is_made_again() {
        let parent = tempfile::tempdir().expect("a folder");
        let made = std::cell::Cell::new(0);
        let make = || {
            let path = parent.path().join(made.get().to_string());
            std::fs::create_dir(&path)?;
            if made.replace(made.get() + 1) < 3 {
                std::fs::remove_dir(&path)?;
            }
            Ok(path)
        };
        let (path, lock) = FolderLock::made(make, |path| path).expect("a folder");
        assert!(path.is_dir() && path.ends_with("3"));
        assert!(FolderLock::take(&path).expect("no error").is_none());
        drop(lock);
    }
}
