//! Keeps private copies of artifacts, each under a name that was never used before.
//! Writes only bytes that were read already, and removes only what it made.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::digest::Artifact;
use super::folder_lock::FolderLock;
use crate::error::artifact::ArtifactError;

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
    folder: Mutex<Option<Folder>>,
    staged: AtomicU64,
}

/// A private copy of a library, and of what lies beside it; removed when this is dropped, unless
/// copies are kept.
#[must_use]
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    /// The folder of this copy alone, if it has dependencies.
    folder: Option<PathBuf>,
    /// The folder of the originals, from which nothing may be mapped.
    origin: Option<PathBuf>,
    /// Where the library and its dependencies lie, if it has any.
    copies: Vec<PathBuf>,
    /// Whether the files stay when this is dropped.
    keep: bool,
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
        match self.write(&name, artifact.bytes()) {
            // Cleaners of temporary files take folders that look old: once more in a new one.
            Err(failure) if failure.folder_is_lost => {
                self.forget_folder(&failure.path);
                self.write(&name, artifact.bytes())
            }
            written => written,
        }
        .map_err(|failure| ArtifactError::Stage { path: failure.path, source: failure.source })
    }

    /// Makes a folder for a library and what it links; both are written next.
    #[cfg(unix)]
    pub(crate) fn group(&self, name_hint: &str) -> Result<Group, ArtifactError> {
        let folder = self.folder_for(name_hint)?;
        let path = folder.clone();
        let staged =
            Staged { path, folder: Some(folder), keep: false, origin: None, copies: vec![] };
        Ok(Group { staged, keep: self.keep })
    }

    /// Makes a folder for what is more than one file.
    #[cfg(unix)]
    pub(super) fn folder_for(&self, name_hint: &str) -> Result<PathBuf, ArtifactError> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let name = file_name(Path::new(""), name_hint, number);
        let make = || -> Result<PathBuf, Failure> {
            let place = self.folder()?;
            let path = place.path.join(&name);
            let is_lost =
                |source| Failure { folder_is_lost: !place.is_ours(), ..failure(&path, source) };
            fs::create_dir(&path).and_then(|()| make_usable(&path)).map_err(is_lost)?;
            Ok(path)
        };
        match make() {
            Err(failure) if failure.folder_is_lost => {
                self.forget_folder(&failure.path);
                make()
            }
            made => made,
        }
        .map_err(|failure| ArtifactError::Stage { path: failure.path, source: failure.source })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<Staged, Failure> {
        let folder = self.folder()?;
        let path = folder.path.join(name);
        let failed =
            |source| Failure { folder_is_lost: !folder.is_ours(), ..failure(&path, source) };
        check_file_size(bytes.len()).map_err(failed)?;
        let mut file = create(&path).map_err(failed)?;
        // From here on a failure removes what was written.
        let mut staged = Staged {
            path: path.clone(),
            folder: None,
            origin: None,
            copies: Vec::new(),
            keep: false,
        };
        file.write_all(bytes).and_then(|()| seal(&file)).map_err(failed)?;
        if !folder.is_ours() {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        staged.keep = self.keep;
        Ok(staged)
    }

    /// Where copies go at the moment; makes the folder if there is none.
    fn folder(&self) -> Result<Place, Failure> {
        let mut slot = self.lock();
        if let Some(folder) = &*slot {
            return Ok(folder.place.clone());
        }
        let parent = self.parent.clone().unwrap_or_else(std::env::temp_dir);
        super::sweep::sweep_later(parent.clone());
        let folder = Folder::make(&parent, self.keep).map_err(|source| failure(&parent, source))?;
        Ok(slot.insert(folder).place.clone())
    }

    /// Lets go of the folder that held `file`, unless another thread already did.
    fn forget_folder(&self, file: &Path) {
        let mut slot = self.lock();
        if slot.as_ref().is_some_and(|folder| file.starts_with(&folder.place.path)) {
            *slot = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Folder>> {
        // Nothing is half done when a panic comes by.
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staged {
    /// Where the copy lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the library and its dependencies lie, if it has any.
    pub(crate) fn copies(&self) -> &[PathBuf] {
        &self.copies
    }

    /// The folder of the originals, from which nothing may be mapped.
    pub(crate) fn origin(&self) -> Option<&Path> {
        self.origin.as_deref()
    }
}

/// A folder with copies that is not complete yet; removed when this is dropped.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Group {
    staged: Staged,
    keep: bool,
}

#[cfg(unix)]
impl Group {
    /// Where the copies go.
    pub(crate) fn folder(&self) -> &Path {
        &self.staged.path
    }

    /// Writes a copy.
    pub(crate) fn write(&mut self, relative: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
        let mut folder = self.staged.path.clone();
        let path = folder.join(relative);
        let error = |source| ArtifactError::Stage { path: path.clone(), source };
        for part in relative.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if !folder.is_dir() {
                fs::create_dir(&folder).and_then(|()| make_usable(&folder)).map_err(error)?;
            }
        }
        write_executable(&path, bytes).map_err(error)?;
        self.staged.copies.push(path);
        Ok(())
    }

    /// The copy of the library at `relative`, with what lies beside it. The originals are in
    /// `origin`.
    pub(crate) fn finish(self, relative: &Path, origin: Option<&Path>) -> Staged {
        let Self { mut staged, keep } = self;
        staged.path.push(relative);
        staged.origin = origin.map(Path::to_owned);
        staged.keep = keep;
        staged
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // It may have gone with the staging area; there is no one to report it to.
        let _ = match &self.folder {
            Some(folder) => fs::remove_dir_all(folder),
            None => fs::remove_file(&self.path),
        };
    }
}

/// The folder as long as it is ours; dropping it removes it.
#[derive(Debug)]
struct Folder {
    place: Place,
    handle: Option<tempfile::TempDir>,
    // Dropped last: the folder has an owner until it is removed.
    _lock: FolderLock,
}

/// A folder's path and what tells it from another one that took its name.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    identity: Identity,
}

/// Device and inode, where there are any.
type Identity = (u64, u64);

impl Folder {
    fn make(parent: &Path, keep: bool) -> io::Result<Self> {
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
        Ok(Self { place: Place { path, identity }, handle, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take().filter(|_| !self.place.is_ours()) {
            // What took the name of our folder is not ours to remove.
            let _ = handle.keep();
        }
    }
}

impl Place {
    fn is_ours(&self) -> bool {
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

struct Failure {
    path: PathBuf,
    source: io::Error,
    folder_is_lost: bool,
}

fn failure(path: &Path, source: io::Error) -> Failure {
    Failure { path: path.to_owned(), source, folder_is_lost: false }
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

/// Refuses what the system would end this process for: a file over its limit of file sizes.
fn check_file_size(bytes: usize) -> io::Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        let limit = getrlimit(Resource::Fsize).current;
        if let Some(limit) = limit.filter(|limit| (bytes as u64) > *limit) {
            let message = format!(
                "it has {bytes} bytes, and this process may write files of at most {limit} \
                 (`ulimit -f`)"
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
    }
    #[cfg(not(unix))]
    let _ = bytes;
    Ok(())
}

/// Makes a file that was not there before.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Writes a file that was not there before, which this user may run.
#[cfg(unix)]
pub(super) fn write_executable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    check_file_size(bytes.len())?;
    let mut file = create(path)?;
    file.write_all(bytes).and_then(|()| seal(&file))
}

/// Takes away the right to write, whatever the umask made of the mode.
fn seal(file: &File) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o500))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
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
        let told = area.stage(&artifact, "x").unwrap_err().to_string();
        assert!(told.contains("nope`") && told.contains("vanished"), "{told}");
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
