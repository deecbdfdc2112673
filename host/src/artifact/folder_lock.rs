//! A lock on a folder, held by the process that created it. It ends with the process, however that
//! exits, and works across PID namespaces, so it shows whether a folder has an owner.

use std::fs::File;
use std::io;
use std::path::Path;

/// A lock that is held until it is dropped, or until the process exits.
#[derive(Debug)]
pub(crate) struct FolderLock {
    /// Closed when a child process executes a program.
    _folder: File,
}

impl FolderLock {
    /// Locks a folder, without waiting; `None` if another owner holds the lock.
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

    /// Does not lock: this system cannot lock folders, and no sweep runs.
    #[cfg(not(unix))]
    pub(crate) fn take(folder: &Path) -> io::Result<Option<Self>> {
        Ok(Some(Self { _folder: tempfile::tempfile_in(folder)? }))
    }

    /// Creates a folder with `make` and locks it, before a sweep takes it for abandoned.
    pub(crate) fn create<T>(
        make: impl Fn() -> io::Result<T>,
        path: impl Fn(&T) -> &Path,
    ) -> io::Result<(T, Self)> {
        // A sweep can lock and remove a folder between its creation and its lock.
        const MAX_ATTEMPTS: usize = 64;
        let mut removed = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..MAX_ATTEMPTS {
            let created = match make() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    removed = error;
                    continue;
                }
                created => created?,
            };
            let folder = path(&created);
            let lock = match Self::take(folder) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            // It was not removed before it was locked, so it stays.
            if let Some(lock) = lock.filter(|_| folder.is_dir()) {
                return Ok((created, lock));
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
    fn folder_removed_before_its_lock_is_created_again() {
        let parent = tempfile::tempdir().expect("a folder");
        let count = std::cell::Cell::new(0);
        let make = || {
            let path = parent.path().join(count.get().to_string());
            std::fs::create_dir(&path)?;
            if count.replace(count.get() + 1) < 3 {
                std::fs::remove_dir(&path)?;
            }
            Ok(path)
        };
        let (path, lock) = FolderLock::create(make, |path| path).expect("a folder");
        assert!(path.is_dir() && path.ends_with("3"));
        assert!(FolderLock::take(&path).expect("no error").is_none());
        drop(lock);
    }
}
