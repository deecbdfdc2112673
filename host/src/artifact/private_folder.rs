//! The folder of one host for its private copies. Only this user can access it, and a lock marks
//! its owner, even across PID namespaces. Removes the folders of hosts that exited without cleaning
//! up, if their lock is free. Knows nothing about the copies.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The folder; removed when dropped if it is still this host's.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    pub(super) location: FolderLocation,
    handle: Option<tempfile::TempDir>,
    // Dropped last: the folder has an owner until it is removed.
    _lock: FolderLock,
}

/// A folder's path, and the identity by which a replacement is recognized.
#[derive(Clone, Debug)]
pub(super) struct FolderLocation {
    pub(super) path: PathBuf,
    identity: Identity,
}

/// Device and inode; zeros if the system has none.
type Identity = (u64, u64);

impl PrivateFolder {
    /// Creates the folder in `parent`. With `keep` it stays when this is dropped.
    pub(super) fn make(parent: &Path, keep: bool) -> io::Result<Self> {
        let infix = if keep { "kept-" } else { "" };
        let prefix = format!("{}{infix}{}-", PREFIX, std::process::id());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o700));
        }
        let make = || {
            let handle = builder.tempdir_in(parent)?;
            match make_usable(handle.path()) {
                // If a sweep removed it before it was locked, the lock reports that.
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(handle),
            }
        };
        let (handle, lock) = FolderLock::create(make, tempfile::TempDir::path)?;
        let path = handle.path().to_owned();
        let identity = identity(&path.symlink_metadata()?);
        let handle = if keep {
            let _ = handle.keep();
            None
        } else {
            Some(handle)
        };
        Ok(Self { location: FolderLocation { path, identity }, handle, _lock: lock })
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take().filter(|_| !self.location.is_ours()) {
            // A folder that replaced this one is not removed.
            let _ = handle.keep();
        }
    }
}

impl FolderLocation {
    /// Returns whether the folder at this path is still the one that was created.
    pub(super) fn is_ours(&self) -> bool {
        let found = self.path.symlink_metadata();
        found.is_ok_and(|found| found.is_dir() && identity(&found) == self.identity)
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {
    (0, 0)
}

/// Gives this user all permissions for a new folder, whatever the umask.
pub(crate) fn make_usable(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

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

/// The prefix of the names of staging folders; the process ID follows.
pub(super) const PREFIX: &str = "hotbay-";

/// Sweeps `parent` on a separate thread, without waiting.
pub(super) fn sweep_later(parent: PathBuf) {
    let swept = std::thread::Builder::new()
        .name("hotbay-sweep".to_owned())
        .spawn(move || sweep(&parent, PREFIX));
    // If no thread starts, the next host sweeps.
    drop(swept);
}

/// Removes abandoned folders in `parent` whose names consist of `prefix`, a process ID, and more.
/// Blocks.
pub(crate) fn sweep(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_named =
            name.to_str().is_some_and(|name| is_private_folder(name, prefix) && is_of_host(name));
        // The metadata of a link is its own.
        let is_folder = |metadata: &fs::Metadata| metadata.is_dir() && is_own(metadata);
        let found = entry.metadata().ok().filter(|found| is_named && is_folder(found));
        let Some(metadata) = found else { continue };
        // A program can change the mode of the folder of its launch.
        if !is_private(&metadata) && !name.to_str().is_some_and(is_launch_folder) {
            continue;
        }
        let lock = match FolderLock::take(&entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                make_private(&entry.path()).and_then(|()| FolderLock::take(&entry.path()))
            }
            taken => taken,
        };
        if let Ok(Some(_lock)) = lock {
            // Another host may sweep the same folder; what cannot be removed stays.
            let _ = hotbay_sandbox::remove_folder(&entry.path());
        }
    }
}

/// Returns whether a folder has a name that only hosts give: that of private copies, or of a launch.
pub(super) fn is_of_host(name: &str) -> bool {
    let kept = format!("{PREFIX}kept-");
    is_launch_folder(name)
        || [PREFIX, &kept]
            .iter()
            .any(|prefix| is_private_folder(name, prefix) && has_random(name, 6))
}

/// Returns whether a folder has the name of the folder of a launch.
fn is_launch_folder(name: &str) -> bool {
    is_private_folder(name, &format!("{PREFIX}run-")) && has_random(name, 16)
}

fn has_random(name: &str, length: usize) -> bool {
    let random = name.rsplit('-').next().unwrap_or_default();
    random.len() == length && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Returns whether this is the name of a private folder. The process ID in it is for people only.
fn is_private_folder(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.split_once('-'));
    rest.is_some_and(|(process, _)| process.parse::<u32>().is_ok_and(|process| process != 0))
}

#[cfg(unix)]
fn is_own(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(unix)]
fn make_private(folder: &Path) -> io::Result<()> {
    hotbay_sandbox::make_private(folder)
}

/// Returns whether only the owner has permissions for a folder.
#[cfg(unix)]
fn is_private(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o077 == 0
}

#[cfg(not(unix))]
fn is_own(_: &fs::Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn make_private(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn is_private(_: &fs::Metadata) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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

    #[test]
    fn only_private_folders_without_owner_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("libecho.so"), "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let abandoned = make("hotbay-7-abc123", 0o700);
        let owned = make("hotbay-8-owned1", 0o700);
        let lock = FolderLock::take(&owned).unwrap();
        let others = [
            make("hotbay-7-shared", 0o755),
            make("hotbay-2024-results", 0o700),
            make("hotbay-7-open12", 0o755),
            make("hotbay-kept-7-abc123", 0o700),
            make("hotbay-run-7-0123456789abcdef", 0o700),
            make("hotbay-x-abc", 0o700),
            make("other-7-abc", 0o700),
        ];
        std::os::unix::fs::symlink(&others[0], parent.path().join("hotbay-9-linked")).unwrap();
        sweep(parent.path(), PREFIX);
        assert!(!abandoned.exists(), "its host exited, so its age does not matter");
        assert!(owned.exists() && others.iter().all(|path| path.exists()));
        drop(lock);
        sweep(parent.path(), PREFIX);
        assert!(!owned.exists());
        let launches = [0o755, 0o000].map(|mode| make(&format!("hotbay-run-7-{mode:016x}"), mode));
        let of_user = make("hotbay-run-2024-results", 0o755);
        sweep(parent.path(), "hotbay-run-");
        assert!(launches.iter().all(|path| !path.exists()) && of_user.exists());
    }

    #[test]
    fn private_folders_are_known_by_their_names() {
        for (name, expected) in [
            ("hotbay-7-aB3xyz", true),
            ("hotbay-kept-7-aB3xyz", true),
            ("hotbay-run-7-0123456789abcdef", true),
            ("hotbay-run-2024-results", false),
            ("hotbay-7-abc", false),
            ("hotbay-x-aB3xyz", false),
            ("greet", false),
        ] {
            assert_eq!(is_of_host(name), expected, "{name}");
        }
    }
}
