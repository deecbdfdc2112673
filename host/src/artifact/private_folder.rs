//! The folder of one host for its private copies. Only this user can access it, and a lock marks
//! its owner. Knows nothing about the copies.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::folder_lock::FolderLock;

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
        let prefix = format!("{}{infix}{}-", super::sweep::PREFIX, std::process::id());
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
