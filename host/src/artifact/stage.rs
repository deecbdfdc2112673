//! Keeps private copies of artifacts, each under a name that was never used before.
//! Writes only bytes that were read already, and removes only what it made.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::digest::Artifact;
use super::private_folder::{FolderLocation, PrivateFolder};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
use super::staged::Group;
use super::staged::{Failure, Staged};
use crate::error::artifact::ArtifactError;

#[cfg(unix)]
pub(crate) use super::private_folder::make_usable;
#[cfg(unix)]
pub(super) use super::staged::write_executable;

/// How many characters of a hint stand in a file's name.
const HINT_CHARS_MAX: usize = 64;

/// A folder for copies that only this user can look into, made when first needed.
///
/// It is removed with all that is in it when the area is dropped, and made anew should something
/// else have removed it.
#[derive(Debug)]
pub(crate) struct StagingArea {
    parent: Option<PathBuf>,
    /// Copies and their folder are left where they are, for debuggers and profilers.
    keep: bool,
    folder: Mutex<Option<PrivateFolder>>,
    staged: AtomicU64,
}

/// Why an attempt to write to the private folder failed.
enum Attempt {
    Failed(Failure),
    /// The folder was removed or replaced.
    FolderLost(Failure),
}

impl StagingArea {
    /// An area in `parent`, or else where the system keeps temporary files; touches nothing yet.
    ///
    /// With `keep`, copies of what was loaded stay, even after this process.
    pub(crate) fn new(parent: Option<&Path>, keep: bool) -> Self {
        let parent = parent.map(Path::to_owned);
        Self { parent, keep, folder: Mutex::new(None), staged: AtomicU64::new(0) }
    }

    /// Writes the bytes of `artifact` to a new file, readable and executable by this user only.
    ///
    /// `name_hint` makes the file's name tell something to those who see it in a debugger.
    pub(crate) fn stage(
        &self,
        artifact: &Artifact,
        name_hint: &str,
    ) -> Result<Staged, ArtifactError> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let name = file_name(artifact.path(), name_hint, number);
        let mut staged = self.in_folder(|folder| Staged::write(folder.join(&name), artifact))?;
        staged.keep = self.keep;
        Ok(staged)
    }

    /// Makes a folder for a library and what it links; both are written next.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(crate) fn group(&self, name_hint: &str) -> Result<Group, ArtifactError> {
        Ok(Group::new(self.folder_for(name_hint)?, self.keep))
    }

    /// Makes a folder for what is more than one file.
    #[cfg(unix)]
    pub(super) fn folder_for(&self, name_hint: &str) -> Result<PathBuf, ArtifactError> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let name = file_name(Path::new(""), name_hint, number);
        self.in_folder(|folder| {
            let path = folder.join(&name);
            match std::fs::create_dir(&path).and_then(|()| make_usable(&path)) {
                Ok(()) => Ok(path),
                Err(source) => Err(Failure { path, source }),
            }
        })
    }

    /// Runs `make` in the folder of this area. If that is lost, runs it once more in a new one:
    /// cleaners of temporary files remove folders that look old.
    fn in_folder<T>(&self, make: impl Fn(&Path) -> Result<T, Failure>) -> Result<T, ArtifactError> {
        let attempt = || {
            let place = self.folder().map_err(Attempt::Failed)?;
            let made = make(&place.path);
            if place.is_ours() {
                return made.map_err(Attempt::Failed);
            }
            self.forget_folder(&place);
            let lost = || Failure { path: place.path, source: io::ErrorKind::NotFound.into() };
            Err(Attempt::FolderLost(made.err().unwrap_or_else(lost)))
        };
        let made = match attempt() {
            Err(Attempt::FolderLost(_)) => attempt(),
            made => made,
        };
        made.map_err(|(Attempt::Failed(failure) | Attempt::FolderLost(failure))| {
            ArtifactError::Stage { path: failure.path, source: failure.source }
        })
    }

    /// Where copies go at the moment; makes the folder if there is none.
    fn folder(&self) -> Result<FolderLocation, Failure> {
        let mut slot = self.lock();
        if let Some(folder) = &*slot {
            return Ok(folder.place.clone());
        }
        let parent = self.parent.clone().unwrap_or_else(std::env::temp_dir);
        super::sweep::sweep_later(parent.clone());
        let folder = PrivateFolder::make(&parent, self.keep);
        let folder = folder.map_err(|source| Failure { path: parent, source })?;
        Ok(slot.insert(folder).place.clone())
    }

    /// Releases a folder that was lost, unless another thread already did.
    fn forget_folder(&self, lost: &FolderLocation) {
        let mut slot = self.lock();
        if slot.as_ref().is_some_and(|folder| folder.place.path == lost.path) {
            *slot = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PrivateFolder>> {
        // Nothing is half done when a panic comes by.
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `transform-7.so`: unique by its number, with the suffix that the platform expects.
fn file_name(original: &Path, hint: &str, number: u64) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let hint: String = hint.chars().filter(is_plain).take(HINT_CHARS_MAX).collect();
    match original.extension().and_then(|suffix| suffix.to_str()) {
        Some(suffix) if suffix.chars().all(|c| is_plain(&c)) => format!("{hint}-{number}.{suffix}"),
        _ => format!("{hint}-{number}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::artifact::digest::BYTES_MAX;

    fn artifact() -> (tempfile::TempDir, Artifact) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libx.so");
        fs::write(&path, "bytes").unwrap();
        let artifact = Artifact::read(&path, BYTES_MAX).unwrap();
        (folder, artifact)
    }

    #[test]
    fn names_are_plain_unique_and_keep_the_suffix() {
        let cases = [
            ("/p/libx.so", "echo", "echo-7.so"),
            ("x.dll", "a b/../c\0é", "abc-7.dll"),
            ("program", "", "-7"),
            ("x.s o", "x", "x-7"),
        ];
        for (original, hint, wanted) in cases {
            assert_eq!(file_name(Path::new(original), hint, 7), wanted);
        }
    }

    #[test]
    fn copies_are_removed_when_dropped_unless_kept() {
        for keep in [false, true] {
            let (parent, artifact) = artifact();
            let area = StagingArea::new(Some(parent.path()), keep);
            let staged = area.stage(&artifact, "x").unwrap();
            let path = staged.path().to_owned();
            drop((staged, area));
            assert_eq!(path.exists(), keep);
        }
    }

    #[test]
    fn staging_area_removes_what_is_still_in_it() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(parent.path()), false);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is made before use");
        let [first, second, third] = [(); 3].map(|()| area.stage(&artifact, "x").unwrap());
        assert_ne!(first.path(), second.path());
        assert_eq!(fs::read(first.path()).unwrap(), b"bytes");
        let gone = [first.path().to_owned(), second.path().to_owned()];
        drop((first, second));
        assert!(gone.iter().all(|path| !path.exists()) && third.path().exists());
        drop(area);
        assert!(!third.path().parent().unwrap().exists(), "the area goes with all that is in it");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_can_look_into_the_area() {
        use std::os::unix::fs::PermissionsExt;
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(parent.path()), false);
        let staged = area.stage(&artifact, "x").unwrap();
        let folder = staged.path().parent().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(folder), mode(staged.path())), (0o700, 0o500));
        let prefix = format!("hotbay-{}-", std::process::id());
        assert!(folder.file_name().unwrap().to_str().unwrap().starts_with(&prefix));
    }

    #[test]
    fn a_folder_that_vanished_is_made_again() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(parent.path()), false);
        let first = area.stage(&artifact, "x").unwrap();
        let lost = first.path().parent().unwrap().to_owned();
        fs::remove_dir_all(&lost).unwrap();
        let second = area.stage(&artifact, "x").unwrap();
        assert!(second.path().exists() && !second.path().starts_with(&lost));
        drop(first);
        drop(second);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_another_one_replaced_is_neither_used_nor_removed() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(parent.path()), false);
        let ours = area.stage(&artifact, "x").unwrap().path().parent().unwrap().to_owned();
        fs::rename(&ours, parent.path().join("aside")).unwrap();
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("theirs"), "").unwrap();
        let staged = area.stage(&artifact, "x").unwrap();
        assert!(!staged.path().starts_with(&ours));
        drop((staged, area));
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 1, "only what was theirs");
    }

    #[test]
    fn a_parent_that_is_missing_is_named() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(&parent.path().join("nope")), false);
        let error = area.stage(&artifact, "x").unwrap_err();
        assert!(error.to_string().contains("nope`"), "{error}");
        assert_eq!(error.hint().as_deref(), Some("the folder was removed"));
    }

    #[test]
    fn many_threads_stage_at_once() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(parent.path()), false);
        let stage = || -> Vec<PathBuf> {
            (0..50).map(|_| area.stage(&artifact, "x").unwrap().path().to_owned()).collect()
        };
        let mut paths: Vec<PathBuf> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(stage)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 200);
        let folders: std::collections::HashSet<_> =
            paths.iter().map(|path| path.parent()).collect();
        assert_eq!(folders.len(), 1);
    }
}
