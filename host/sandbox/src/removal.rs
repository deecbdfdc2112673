//! Removes a folder that a process could change, whatever it left there.

use std::path::Path;
use std::{fs, io};

/// Removes a folder with its content, like [`fs::remove_dir_all`], but with a constant amount of memory
/// and open files however deep its folders are, and also folders without permissions. Follows no
/// links. Blocks.
///
/// No process must change the folder meanwhile.
///
/// # Errors
///
/// The first I/O error; the rest stays.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    #[cfg(not(unix))]
    return fs::remove_dir_all(folder);
    #[cfg(unix)]
    unix::remove_folder(folder)
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
        make_accessible(folder)?;
        let mut next = 0;
        // Another listing may have what was moved into the folder during this one.
        while empty(folder, folder, &mut next)? {}
        fs::remove_dir(folder)
    }

    /// Removes all in `folder`, a folder in `root` or that itself. Moves the folders in it to `root`.
    /// Returns whether there were any.
    fn empty(root: &Path, folder: &Path, next: &mut u64) -> io::Result<bool> {
        let mut has_folders = false;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                fs::remove_file(path)?;
                continue;
            }
            has_folders = true;
            make_accessible(&path)?;
            if folder == root {
                empty(root, &path, next)?;
                fs::remove_dir(path)?;
            } else {
                move_to(root, &path, next)?;
            }
        }
        Ok(has_folders)
    }

    /// Moves a folder to `root`, with a name that is free there.
    fn move_to(root: &Path, folder: &Path, next: &mut u64) -> io::Result<()> {
        loop {
            let moved = fs::rename(folder, root.join(next.to_string()));
            *next += 1;
            match moved {
                Err(error) if is_taken(&error) => {}
                moved => return moved,
            }
        }
    }

    fn is_taken(error: &io::Error) -> bool {
        use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
        matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
    }

    fn make_accessible(folder: &Path) -> io::Result<()> {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn deep_folders_and_those_without_permissions_are_removed() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("folder");
        fs::create_dir(&folder).expect("a folder");
        fs::write(parent.path().join("kept"), "text").expect("a file");
        symlink(parent.path(), folder.join("link")).expect("a link");
        // Names that moved folders get are taken by a file, a link and a folder with a file.
        fs::write(folder.join("0"), "text").expect("a file");
        symlink("0", folder.join("1")).expect("a link");
        fs::create_dir(folder.join("2")).expect("a folder");
        fs::write(folder.join("2/file"), "text").expect("a file");
        // In steps, since no path may be that long.
        let step: std::path::PathBuf = std::iter::repeat_n("d", 1000).collect();
        let mut inner = folder.join("tree");
        for _ in 0..5 {
            let lower = folder.join("lower");
            fs::create_dir_all(lower.join(&step)).expect("folders");
            if inner.exists() {
                fs::rename(&inner, lower.join(&step).join("tree")).expect("it is ours");
            }
            inner = folder.join("tree");
            fs::rename(&lower, &inner).expect("it is ours");
        }
        fs::create_dir_all(folder.join("closed/inner")).expect("folders");
        for name in ["closed/inner", "closed"] {
            let closed = fs::Permissions::from_mode(0o0);
            fs::set_permissions(folder.join(name), closed).expect("it is ours");
        }
        remove_folder(&folder).expect("it is removed");
        assert!(!folder.exists());
        assert_eq!(fs::read_to_string(parent.path().join("kept")).expect("it stays"), "text");
        remove_folder(&folder).expect_err("it does not exist");
    }
}
