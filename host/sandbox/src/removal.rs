//! Removes a folder that a process could change, whatever it left there.

use std::io;
use std::path::Path;

/// Removes a folder with its content, like [`std::fs::remove_dir_all`], but with a constant amount of memory
/// and open files however deep its folders are, and also folders without permissions. Follows no
/// links, even those that a process makes meanwhile. Blocks.
///
/// # Errors
///
/// The first I/O error, or `TimedOut` after some minutes, if a process adds files all the time. The rest
/// stays.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    #[cfg(not(unix))]
    return std::fs::remove_dir_all(folder);
    #[cfg(unix)]
    Ok(unix::remove_folder(folder)?)
}

/// Gives this user all permissions for a folder, and others none. Follows no link.
///
/// # Errors
///
/// I/O errors.
#[cfg(unix)]
pub fn make_private(folder: &Path) -> io::Result<()> {
    unix::open(rustix::fs::CWD, folder)?;
    Ok(())
}

#[cfg(unix)]
mod unix {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::time::{Duration, Instant};

    use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
    use rustix::io::Errno;
    use rustix::path::Arg;

    use super::*;

    /// Far more than the deepest folders take.
    const MAX_TIME: Duration = Duration::from_secs(600);

    pub(super) fn remove_folder(folder: &Path) -> Result<(), Errno> {
        let root = open(CWD, folder)?;
        let mut next = 0;
        let until = Instant::now() + MAX_TIME;
        // Another listing may have what was moved into the folder during this one.
        while empty(&root, None, &mut next)? {
            if Instant::now() > until {
                return Err(Errno::TIMEDOUT);
            }
        }
        rustix::fs::unlinkat(CWD, folder, AtFlags::REMOVEDIR)
    }

    /// Removes all in `inner`, a folder in `root`, or without one, in `root`. Moves the folders in
    /// `inner` to `root`. Returns whether there were any.
    fn empty(root: &OwnedFd, inner: Option<&OwnedFd>, next: &mut u64) -> Result<bool, Errno> {
        let folder = inner.unwrap_or(root);
        let mut has_folders = false;
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if !is_folder(folder, &entry)? {
                rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
                continue;
            }
            has_folders = true;
            let opened = open(folder.as_fd(), name)?;
            if inner.is_some() {
                move_to(root, folder, name, next)?;
            } else {
                empty(root, Some(&opened), next)?;
                rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?;
            }
        }
        Ok(has_folders)
    }

    fn is_folder(folder: &OwnedFd, entry: &rustix::fs::DirEntry) -> Result<bool, Errno> {
        let found = match entry.file_type() {
            FileType::Unknown => {
                let stat =
                    rustix::fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        Ok(found.is_dir())
    }

    /// Moves the folder `name` in `folder` to `root`, with a name that is free there.
    fn move_to(
        root: &OwnedFd,
        folder: &OwnedFd,
        name: &std::ffi::CStr,
        next: &mut u64,
    ) -> Result<(), Errno> {
        loop {
            let moved = rustix::fs::renameat(folder, name, root, next.to_string());
            *next += 1;
            match moved {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                moved => return moved,
            }
        }
    }

    /// Opens a folder, and gives this user all permissions for it.
    pub(super) fn open(parent: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                make_readable(parent, name)?;
                rustix::fs::openat(parent, name, flags, Mode::empty())
            }
            opened => opened,
        }?;
        rustix::fs::fchmod(&opened, Mode::RWXU)?;
        Ok(opened)
    }

    #[cfg(target_os = "linux")]
    fn make_readable(parent: BorrowedFd<'_>, name: impl Arg) -> Result<(), Errno> {
        use std::os::fd::AsRawFd as _;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        // `fchmod` needs a folder that can be read.
        let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
        rustix::fs::chmod(path, Mode::RWXU)
    }

    #[cfg(not(target_os = "linux"))]
    fn make_readable(parent: BorrowedFd<'_>, name: impl Arg) -> Result<(), Errno> {
        rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
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
        let (target, link) = (parent.path().join("target"), parent.path().join("link"));
        fs::create_dir_all(target.join("inner")).expect("folders");
        symlink(&target, &link).expect("a link");
        remove_folder(&link).expect_err("a link");
        assert!(target.join("inner").exists());
    }
}
