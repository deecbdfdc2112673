//! The private folder of a launch, where its sockets are: made, removed, and swept when a host
//! ended without removing its own.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};

use super::random;

/// What the names of these folders begin with; the host's process id follows.
const PREFIX: &str = "hotbay-run-";
/// How long the path of a socket may be, without the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// A separator and the longest name of a socket in the folder.
const SOCKET_NAME_BYTES_MAX: usize = 30;
/// Used where the path of the wanted parent is too long for sockets.
const SHORT_PARENT: &str = "/tmp";
/// Younger folders are left alone: the id of a process says nothing where several containers
/// share a folder for temporary files.
const AGE_MIN: Duration = Duration::from_secs(600);

/// A folder of mode 0700 with a name that cannot be guessed. Dropped, it is removed with all in
/// it.
pub(crate) struct LaunchFolder {
    path: PathBuf,
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
        // Fails if something has that name, also a link.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
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
/// Touches only folders of this user that carry the name of a process that is gone.
pub(crate) fn sweep(parent: &Path) {
    sweep_one(parent, SystemTime::now(), &is_alive);
    if parent != Path::new(SHORT_PARENT) {
        sweep_one(Path::new(SHORT_PARENT), SystemTime::now(), &is_alive);
    }
}

fn sweep_one(parent: &Path, now: SystemTime, is_alive: &dyn Fn(i32) -> bool) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(process_of) else { continue };
        // Not followed if it is a link.
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|then| now.duration_since(then).ok());
        let is_old = age.is_some_and(|age| age >= AGE_MIN);
        if metadata.is_dir() && is_old && is_own(&metadata) && !is_alive(process) {
            // Another host may sweep the same; what cannot be removed is left.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process in the name `hotbay-run-PROCESS-…`.
fn process_of(name: &str) -> Option<i32> {
    let (process, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    process.parse().ok().filter(|process| *process > 0)
}

fn is_alive(process: i32) -> bool {
    // One that may not be signalled is there.
    Pid::from_raw(process).is_none_or(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

fn is_own(metadata: &Metadata) -> bool {
    metadata.uid() == geteuid().as_raw() && metadata.permissions().mode() & 0o077 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

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

    #[test]
    fn only_old_private_folders_of_processes_that_are_gone_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("x.socket"), "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        };
        let gone = make("hotbay-run-7-abc", 0o700);
        let stays = [
            make("hotbay-run-8-alive", 0o700),
            make("hotbay-run-7-shared", 0o755),
            make("hotbay-run-kept-7-abc", 0o700),
            make("hotbay-run--7-abc", 0o700),
            make("hotbay-7-abc", 0o700),
            make("other-7-abc", 0o700),
        ];
        let outside = make("outside", 0o700);
        std::os::unix::fs::symlink(&outside, parent.path().join("hotbay-run-7-link")).unwrap();
        let is_alive = |process| process == 8;
        sweep_one(parent.path(), SystemTime::now(), &is_alive);
        assert!(gone.exists(), "young folders are left alone");
        sweep_one(parent.path(), SystemTime::now() + AGE_MIN * 2, &is_alive);
        assert!(!gone.exists());
        assert!(stays.iter().chain([&outside]).all(|path| path.join("x.socket").exists()));
    }

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(std::process::id().cast_signed()));
    }
}
