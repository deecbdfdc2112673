//! The private folder of a launch, which holds its sockets. Removed on drop, or swept later if a
//! host exited without removing it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::random;
use crate::artifact::folder_lock::FolderLock;
use crate::artifact::stage::make_usable;
use crate::artifact::sweep;

/// Prefix of the folder names; the host's process id follows.
const PREFIX: &str = "hotbay-run-";
/// The longest path of a socket, without the terminating zero.
const MAX_SOCKET_PATH_BYTES: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// A separator and the longest name of a socket.
const MAX_SOCKET_NAME_BYTES: usize = 30;
/// Parent folder if the requested one makes socket paths too long.
const SHORT_PARENT: &str = "/tmp";

/// A folder of mode 0700 with an unpredictable name, removed with its content on drop.
pub(crate) struct LaunchFolder {
    path: PathBuf,
    // Held until the folder is removed, so that no sweep considers it abandoned.
    _lock: FolderLock,
}

impl LaunchFolder {
    /// Creates a folder in `parent`, or in `/tmp` if socket paths would become too long.
    pub(crate) fn make(parent: &Path) -> io::Result<Self> {
        let token = random::token()?;
        let name = format!("{PREFIX}{}-{}", std::process::id(), &token[..16]);
        let expected = parent.join(&name);
        let longest = expected.as_os_str().as_bytes().len() + MAX_SOCKET_NAME_BYTES;
        let path = match longest > MAX_SOCKET_PATH_BYTES {
            true => Path::new(SHORT_PARENT).join(&name),
            false => expected,
        };
        let make = || {
            // Fails if the name exists, even as a symbolic link.
            DirBuilder::new().mode(0o700).create(&path)?;
            make_usable(&path)?;
            Ok(path.clone())
        };
        let (path, lock) = FolderLock::create(make, PathBuf::as_path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LaunchFolder {
    fn drop(&mut self) {
        // If this fails, a later host sweeps it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders that earlier hosts left in `parent` and in `/tmp`. Touches only folders of
/// this user whose lock is free.
pub(crate) fn sweep(parent: &Path) {
    sweep::sweep(parent, PREFIX);
    if parent != Path::new(SHORT_PARENT) {
        sweep::sweep(Path::new(SHORT_PARENT), PREFIX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn folder_is_private_and_removed_with_its_content() {
        let parent = tempfile::tempdir().unwrap();
        let folder = LaunchFolder::make(parent.path()).unwrap();
        let other = LaunchFolder::make(parent.path()).unwrap();
        assert_ne!(folder.path(), other.path());
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/x.socket"), "x").unwrap();
        let path = folder.path().to_owned();
        drop(folder);
        assert!(!path.exists());
        assert!(other.path().exists());
    }

    #[test]
    fn paths_too_long_for_a_socket_use_the_short_parent() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(80));
        fs::create_dir(&long).unwrap();
        let folder = LaunchFolder::make(&long).unwrap();
        assert_eq!(folder.path().parent(), Some(Path::new(SHORT_PARENT)));
    }
}
