//! Removes what hosts left behind that ended without their own clean-up.
//! Touches only folders of this user that carry the name of a process that is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What the names of staging folders begin with; the process's id follows.
pub(super) const PREFIX: &str = "hotbay-";

/// Younger folders are left alone: the id of a process says nothing where several containers
/// share a folder for temporary files.
const AGE_MIN: Duration = Duration::from_secs(600);

/// Sweeps `parent` on a thread of its own, so that nobody waits for it.
pub(super) fn sweep_later(parent: PathBuf) {
    let swept = std::thread::Builder::new()
        .name("hotbay-sweep".to_owned())
        .spawn(move || sweep(&parent, PREFIX));
    // Without a thread the next host sweeps.
    drop(swept);
}

/// Sweeps the folders of `parent` that are called PREFIX, a process's id, and more. Blocks.
pub(crate) fn sweep(parent: &Path, prefix: &str) {
    sweep_at(parent, prefix, SystemTime::now(), &is_alive);
}

fn sweep_at(parent: &Path, prefix: &str, now: SystemTime, is_alive: &dyn Fn(u32) -> bool) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| process_of(name, prefix)) else {
            continue;
        };
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

/// The process in the name of a private folder.
fn process_of(name: &str, prefix: &str) -> Option<u32> {
    let (process, _) = name.strip_prefix(prefix)?.split_once('-')?;
    process.parse().ok().filter(|process| *process != 0)
}

#[cfg(unix)]
fn is_alive(process: u32) -> bool {
    use rustix::process::{Pid, test_kill_process};
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    // One that may not be signalled is there.
    process.is_none_or(|process| test_kill_process(process) != Err(rustix::io::Errno::SRCH))
}

/// Nothing says so without asking the system in its own way, so nothing is swept.
#[cfg(not(unix))]
fn is_alive(_: u32) -> bool {
    true
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
    fn only_old_private_folders_of_processes_that_are_gone_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("libecho.so"), "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let gone = make("hotbay-7-abc", 0o700);
        let stays = [
            make("hotbay-8-alive", 0o700),
            make("hotbay-7-shared", 0o755),
            make("hotbay-kept-7-abc", 0o700),
            make("hotbay-run-7-abc", 0o700),
            make("hotbay-x-abc", 0o700),
            make("other-7-abc", 0o700),
        ];
        let is_alive = |process| process == 8;
        sweep_at(parent.path(), PREFIX, SystemTime::now(), &is_alive);
        assert!(gone.exists(), "young folders are left alone");
        sweep_at(parent.path(), PREFIX, SystemTime::now() + AGE_MIN * 2, &is_alive);
        assert!(!gone.exists());
        assert!(stays.iter().all(|path| path.exists()));
    }
}
