//! Removes private folders of hosts that exited without cleaning up. Touches only folders of this
//! user whose lock is free.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder_lock::FolderLock;

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
        let is_named = name.to_str().is_some_and(|name| is_private_folder(name, prefix));
        // The metadata of a link is its own.
        let is_own = |metadata: &fs::Metadata| metadata.is_dir() && is_own(metadata);
        if !is_named || !entry.metadata().is_ok_and(|metadata| is_own(&metadata)) {
            continue;
        }
        if let Ok(Some(_lock)) = FolderLock::take(&entry.path()) {
            // Another host may sweep the same folder; what cannot be removed stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Returns whether this is the name of a private folder. The process ID in it is for people only.
fn is_private_folder(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.split_once('-'));
    rest.is_some_and(|(process, _)| process.parse::<u32>().is_ok_and(|process| process != 0))
}

#[cfg(unix)]
fn is_own(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let is_private = metadata.permissions().mode() & 0o077 == 0;
    metadata.uid() == rustix::process::geteuid().as_raw() && is_private
}

#[cfg(not(unix))]
fn is_own(_: &fs::Metadata) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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
        let abandoned = make("hotbay-7-abc", 0o700);
        let owned = make("hotbay-8-owned", 0o700);
        let lock = FolderLock::take(&owned).unwrap();
        let others = [
            make("hotbay-7-shared", 0o755),
            make("hotbay-kept-7-abc", 0o700),
            make("hotbay-run-7-abc", 0o700),
            make("hotbay-x-abc", 0o700),
            make("other-7-abc", 0o700),
        ];
        std::os::unix::fs::symlink(&others[0], parent.path().join("hotbay-9-link")).unwrap();
        sweep(parent.path(), PREFIX);
        assert!(!abandoned.exists(), "its host exited, so its age does not matter");
        assert!(owned.exists() && others.iter().all(|path| path.exists()));
        drop(lock);
        sweep(parent.path(), PREFIX);
        assert!(!owned.exists());
    }
}
