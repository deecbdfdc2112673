//! The folder of one host for its private copies: only this user can look into it, and a lock
//! marks it as owned. Decides nothing about the copies.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::folder_lock::FolderLock;

/// The folder as long as it is ours; dropping it removes it.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    pub(super) place: FolderLocation,
    handle: Option<tempfile::TempDir>,
    // Dropped last: the folder has an owner until it is removed.
    _lock: FolderLock,
}

/// A folder's path and what tells it from another one that took its name.
#[derive(Clone, Debug)]
pub(super) struct FolderLocation {
    pub(super) path: PathBuf,
    identity: Identity,
}

/// Device and inode, where there are any.
type Identity = (u64, u64);

impl PrivateFolder {
    /// Makes the folder in `parent`. With `keep` it stays when this is dropped.
    pub(super) fn make(parent: &Path, keep: bool) -> io::Result<Self> {
        let kept = if keep { "kept-" } else { "" };
        let prefix = format!("{}{kept}{}-", super::sweep::PREFIX, std::process::id());
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
                // A sweep removed it before it was locked: the lock is what finds that out.
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(handle),
            }
        };
        let (handle, lock) = FolderLock::made(make, tempfile::TempDir::path)?;
        let path = handle.path().to_owned();
        let identity = identity(&path.symlink_metadata()?);
        let handle = if keep {
            let _ = handle.keep();
            None
        } else {
            Some(handle)
        };
        Ok(Self { place: FolderLocation { path, identity }, handle, _lock: lock })
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take().filter(|_| !self.place.is_ours()) {
            // What took the name of our folder is not ours to remove.
            let _ = handle.keep();
        }
    }
}

impl FolderLocation {
    /// Whether the folder of this path still is the one that was made.
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

/// Gives this user all rights to a new folder, whatever the umask made of its mode.
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
