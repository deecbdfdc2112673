//! The private folder of a launch, where its sockets are: made, removed, and swept when a host
//! ended without removing its own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::random;
use crate::artifact::folder_lock::FolderLock;
use crate::artifact::stage::make_usable;
use crate::artifact::sweep;

/// What the names of these folders begin with; the host's process id follows.
const PREFIX: &str = "hotbay-run-";
/// How long the path of a socket may be, without the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// A separator and the longest name of a socket in the folder.
const SOCKET_NAME_BYTES_MAX: usize = 30;
/// Used where the path of the wanted parent is too long for sockets.
const SHORT_PARENT: &str = "/tmp";

/// A folder of mode 0700 with a name that cannot be guessed. Dropped, it is removed with all in
/// it.
pub(crate) struct LaunchFolder {
    path: PathBuf,
    // Held until the folder is removed, so that no sweep takes it for abandoned.
    _lock: FolderLock,
}

impl LaunchFolder {
    /// Makes one in `parent`, or in `/tmp` if paths of sockets in it would be too long.
    pub(crate) fn make(parent: &Path) -> io::Result<Self> {
        let token = random::token()?;
        let name = format!("{PREFIX}{}-{}", std::process::id(), &token[..16]);
        let wanted = parent.join(&name);
        let longest = wanted.as_os_str().as_bytes().len() + SOCKET_NAME_BYTES_MAX;
        let path = match longest > SOCKET_PATH_BYTES_MAX {
            true => Path::new(SHORT_PARENT).join(&name),
            false => wanted,
        };
        let make = || {
            // Fails if something has that name, also a link.
            DirBuilder::new().mode(0o700).create(&path)?;
            make_usable(&path)?;
            Ok(path.clone())
        };
        let (path, lock) = FolderLock::made(make, PathBuf::as_path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LaunchFolder {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later host.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what hosts left in `parent`, and in `/tmp`, that ended without their own clean-up.
/// Touches only folders of this user whose lock is free.
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
    fn a_folder_is_private_and_removed_with_all_in_it() {
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
    fn paths_too_long_for_a_socket_are_avoided() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(80));
        fs::create_dir(&long).unwrap();
        let folder = LaunchFolder::make(&long).unwrap();
        assert_eq!(folder.path().parent(), Some(Path::new(SHORT_PARENT)));
    }
}
