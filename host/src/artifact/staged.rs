//! A private copy of a library, alone or with its dependencies: written once, read-only, and
//! removed when dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::digest::Artifact;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
use super::private_folder::make_usable;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
use crate::error::artifact::ArtifactError;

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

    fn new(path: PathBuf, folder: Option<PathBuf>) -> Self {
        Self { path, folder, origin: None, copies: Vec::new(), keep: false }
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
