//! Private copies of artifacts, each under a new name: a library, alone or with its dependencies.
//! Writes only bytes that were already read, and removes only what it created.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use super::digest::Artifact;
#[cfg(unix)]
pub(crate) use super::private_folder::make_usable;
use super::private_folder::{FolderLocation, PrivateFolder};
use crate::error::artifact::ArtifactError;

/// Maximum number of characters of a name hint in a file's name.
const MAX_HINT_CHARS: usize = 64;

/// A folder for copies that only this user can access, created at the first use.
///
/// It is removed with its content when the area is dropped, and created again if something else
/// removed it.
#[derive(Debug)]
pub(crate) struct StagingArea {
    parent: Option<PathBuf>,
    /// Whether copies and their folder stay, for debuggers and profilers.
    keep: bool,
    folder: Mutex<Option<PrivateFolder>>,
    staged: AtomicU64,
}

/// The reason writing to the private folder failed.
enum Attempt {
    Failed(Failure),
    /// The folder was removed or replaced.
    FolderLost(Failure),
}

impl StagingArea {
    /// Returns an area in `parent`, or else in the system's temporary folder. Touches nothing yet.
    ///
    /// With `keep`, copies stay, even after this process exits.
    pub(crate) fn new(parent: Option<&Path>, keep: bool) -> Self {
        let parent = parent.map(Path::to_owned);
        Self { parent, keep, folder: Mutex::new(None), staged: AtomicU64::new(0) }
    }

    /// Writes the bytes of `artifact` to a new file, readable and executable by this user only.
    ///
    /// `name_hint` makes the file's name recognizable in a debugger.
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

    /// Creates a folder for a library and its dependencies, which the caller writes.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(crate) fn group(&self, name_hint: &str) -> Result<Group, ArtifactError> {
        Ok(Group::new(self.folder_for(name_hint)?, self.keep))
    }

    /// Creates a folder for several files.
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

    /// Runs `make` in the folder of this area, and once more in a new one if the folder was lost:
    /// cleaners of temporary files remove folders that look old.
    fn in_folder<T>(&self, make: impl Fn(&Path) -> Result<T, Failure>) -> Result<T, ArtifactError> {
        let attempt = || {
            let location = self.folder().map_err(Attempt::Failed)?;
            let created = make(&location.path);
            if location.is_ours() {
                return created.map_err(Attempt::Failed);
            }
            self.forget_folder(&location);
            let lost = || Failure { path: location.path, source: io::ErrorKind::NotFound.into() };
            Err(Attempt::FolderLost(created.err().unwrap_or_else(lost)))
        };
        let created = match attempt() {
            Err(Attempt::FolderLost(_)) => attempt(),
            created => created,
        };
        created.map_err(|(Attempt::Failed(failure) | Attempt::FolderLost(failure))| {
            ArtifactError::Stage { path: failure.path, source: failure.source }
        })
    }

    /// Returns the folder in which it is, unless that is the system's temporary folder.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    pub(crate) fn parent(&self) -> Option<&Path> {
        self.parent.as_deref()
    }

    /// Returns the current folder of copies; creates it if necessary.
    fn folder(&self) -> Result<FolderLocation, Failure> {
        let mut slot = self.lock();
        if let Some(folder) = &*slot {
            return Ok(folder.location.clone());
        }
        let parent = self.parent.clone().unwrap_or_else(std::env::temp_dir);
        super::private_folder::sweep_later(parent.clone());
        let folder = PrivateFolder::make(&parent, self.keep);
        let folder = folder.map_err(|source| Failure { path: parent, source })?;
        Ok(slot.insert(folder).location.clone())
    }

    /// Drops a lost folder, unless another thread already did.
    fn forget_folder(&self, lost: &FolderLocation) {
        let mut slot = self.lock();
        if slot.as_ref().is_some_and(|folder| folder.location.path == lost.path) {
            *slot = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<PrivateFolder>> {
        // A panic leaves no partial state.
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a name such as `transform-7.so`: unique by its number, with the platform's suffix.
fn file_name(original: &Path, hint: &str, number: u64) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let hint: String = hint.chars().filter(is_plain).take(MAX_HINT_CHARS).collect();
    match original.extension().and_then(|suffix| suffix.to_str()) {
        Some(suffix) if suffix.chars().all(|c| is_plain(&c)) => format!("{hint}-{number}.{suffix}"),
        _ => format!("{hint}-{number}"),
    }
}

/// A private copy of a library and its dependencies; removed when dropped, unless copies are kept.
#[must_use]
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    /// The folder of this copy alone, if it has dependencies.
    folder: Option<PathBuf>,
    /// The folder of the originals, from which nothing may be mapped.
    origin: Option<PathBuf>,
    /// The paths of the library and its dependencies, if it has any.
    copies: Vec<PathBuf>,
    /// Whether the files stay when this is dropped.
    pub(super) keep: bool,
}

impl Staged {
    /// Writes a private copy of one file. A failure removes what was written.
    pub(super) fn write(path: PathBuf, artifact: &Artifact) -> Result<Self, Failure> {
        let bytes = artifact.bytes();
        let created = check_file_size(bytes.len()).and_then(|()| create(&path));
        let mut file = match created {
            Ok(file) => file,
            Err(source) => return Err(Failure { path, source }),
        };
        // From here on, its drop removes the file.
        let staged = Self::new(path, None);
        match file.write_all(bytes).and_then(|()| seal(&file)) {
            Ok(()) => Ok(staged),
            Err(source) => Err(Failure { path: staged.path.clone(), source }),
        }
    }

    /// Returns a copy that another process made and removes.
    #[cfg(feature = "runner")]
    pub(crate) fn of_other(path: PathBuf) -> Self {
        let mut staged = Self::new(path, None);
        staged.keep = true;
        staged
    }

    fn new(path: PathBuf, folder: Option<PathBuf>) -> Self {
        Self { path, folder, origin: None, copies: Vec::new(), keep: false }
    }

    /// Returns whether all files exist.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn is_complete(&self) -> bool {
        let is_own =
            |path: &Path| super::trust::check(path, super::trust::Trust::default()).is_ok();
        is_own(&self.path) && self.copies.iter().all(|copy| is_own(copy))
    }

    /// Returns the files and folders of the copy.
    #[cfg(all(unix, feature = "process"))]
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        vec![self.folder.clone().unwrap_or_else(|| self.path.clone())]
    }

    /// Returns the path of the copy.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the paths of the library and its dependencies, if it has any.
    pub(crate) fn copies(&self) -> &[PathBuf] {
        &self.copies
    }

    /// Returns the folder of the originals, from which nothing may be mapped.
    pub(crate) fn origin(&self) -> Option<&Path> {
        self.origin.as_deref()
    }
}

/// A folder of copies that is not complete yet; removed when dropped.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[derive(Debug)]
pub(crate) struct Group {
    staged: Staged,
    keep: bool,
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
impl Group {
    /// Returns an empty group in a new `folder`. With `keep` the finished copies stay.
    pub(super) fn new(folder: PathBuf, keep: bool) -> Self {
        Self { staged: Staged::new(folder.clone(), Some(folder)), keep }
    }

    /// Returns the folder of the copies.
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

    /// Returns the copy of the library at `relative`, with its dependencies. The originals are in
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
        // The staging area may have removed it, and no one could handle the error.
        let _ = match &self.folder {
            Some(folder) => fs::remove_dir_all(folder),
            None => fs::remove_file(&self.path),
        };
    }
}

/// A file or folder that could not be created.
pub(super) struct Failure {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

/// Rejects a file over this process's limit of file sizes: the system would kill the process.
fn check_file_size(bytes: usize) -> io::Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        let limit = getrlimit(Resource::Fsize).current;
        if let Some(limit) = limit.filter(|limit| (bytes as u64) > *limit) {
            let message = format!(
                "it has {bytes} bytes, but this process can write at most {limit} bytes to a file \
                 (`ulimit -f`)"
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
    }
    #[cfg(not(unix))]
    let _ = bytes;
    Ok(())
}

/// Creates a new file.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Writes a new file that this user may execute.
#[cfg(unix)]
pub(super) fn write_executable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    check_file_size(bytes.len())?;
    let mut file = create(path)?;
    file.write_all(bytes).and_then(|()| seal(&file))
}

/// Makes a file read-only and executable, whatever the umask.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::artifact::digest::MAX_BYTES;

    fn artifact() -> (tempfile::TempDir, Artifact) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libx.so");
        fs::write(&path, "bytes").unwrap();
        let artifact = Artifact::read(&path, MAX_BYTES).unwrap();
        (folder, artifact)
    }

    #[test]
    fn names_are_plain_unique_and_keep_suffix() {
        let cases = [
            ("/p/libx.so", "echo", "echo-7.so"),
            ("x.dll", "a b/../c\0é", "abc-7.dll"),
            ("program", "", "-7"),
            ("x.s o", "x", "x-7"),
        ];
        for (original, hint, expected) in cases {
            assert_eq!(file_name(Path::new(original), hint, 7), expected);
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
    fn dropped_area_removes_remaining_copies() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(parent.path()), false);
        assert_eq!(
            fs::read_dir(parent.path()).unwrap().count(),
            1,
            "nothing is created before use"
        );
        let [first, second, third] = [(); 3].map(|()| area.stage(&artifact, "x").unwrap());
        assert_ne!(first.path(), second.path());
        assert_eq!(fs::read(first.path()).unwrap(), b"bytes");
        let removed = [first.path().to_owned(), second.path().to_owned()];
        drop((first, second));
        assert!(removed.iter().all(|path| !path.exists()) && third.path().exists());
        drop(area);
        assert!(!third.path().parent().unwrap().exists(), "the area is removed with its content");
    }

    #[cfg(unix)]
    #[test]
    fn area_is_private_to_its_user() {
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
    fn removed_folder_is_created_again() {
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
    fn replaced_folder_is_neither_used_nor_removed() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(parent.path()), false);
        let ours = area.stage(&artifact, "x").unwrap().path().parent().unwrap().to_owned();
        fs::rename(&ours, parent.path().join("aside")).unwrap();
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("foreign"), "").unwrap();
        let staged = area.stage(&artifact, "x").unwrap();
        assert!(!staged.path().starts_with(&ours));
        drop((staged, area));
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 1, "only the foreign file");
    }

    #[test]
    fn missing_parent_is_named_in_error() {
        let (parent, artifact) = artifact();
        let area = StagingArea::new(Some(&parent.path().join("nope")), false);
        let error = area.stage(&artifact, "x").unwrap_err();
        assert!(error.to_string().contains("nope`"), "{error}");
        assert_eq!(error.hint().as_deref(), Some("create the folder"));
    }

    #[test]
    fn threads_stage_concurrently() {
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
