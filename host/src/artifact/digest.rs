//! Reads an artifact once and verifies exactly those bytes. These bytes are staged and opened; the
//! file on disk is never read again. Holds the plugin's own libraries too, without searching for them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use memmap2::{MmapMut, MmapOptions};
use sha2::{Digest, Sha256};

use super::locate::not_a_file;
use super::trust;
use super::trust::Trust;
use crate::error::artifact::ArtifactError;

#[cfg(test)]
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// Files from this size on are read into a mapping.
const MIN_MAPPED_BYTES: u64 = 1 << 20;

/// The bytes of a file at the time it was read.
pub(crate) struct Artifact {
    path: PathBuf,
    bytes: Bytes,
    metadata: Metadata,
    sha256: OnceLock<[u8; 32]>,
    content: Arc<OnceLock<[u8; 32]>>,
    /// The digest of the file in a signed plugin.
    signed: Option<[u8; 32]>,
    dependencies: Dependencies,
}

impl Artifact {
    /// Reads the regular file at `path`, unless it exceeds `max_bytes`.
    ///
    /// Never blocks on a pipe: it is rejected. Follows links; `locate` decides where they may lead.
    pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Self, ArtifactError> {
        let failed = |source| ArtifactError::Read { path: path.to_owned(), source };
        // Opening a device can have side effects, so check first, and again after opening.
        check_kind(path, &path.metadata().map_err(failed)?)?;
        let mut file = open(path).map_err(failed)?;
        let before = file.metadata().map_err(failed)?;
        check_kind(path, &before)?;
        let too_large = |found_bytes| {
            Err(ArtifactError::TooLarge { path: path.to_owned(), found_bytes, max_bytes })
        };
        if before.len() > max_bytes {
            return too_large(before.len());
        }
        let bytes = Bytes::read(&mut file, before.len(), max_bytes).map_err(failed)?;
        let after = file.metadata().map_err(failed)?;
        if bytes.len() as u64 > max_bytes {
            return too_large(bytes.len() as u64);
        }
        let modified = |metadata: &Metadata| metadata.modified().ok();
        if bytes.len() as u64 != after.len() || modified(&before) != modified(&after) {
            return Err(ArtifactError::ChangedWhileRead { path: path.to_owned() });
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            metadata: after,
            sha256: OnceLock::new(),
            content: Arc::default(),
            signed: None,
            dependencies: Dependencies::default(),
        })
    }

    /// Returns the path that was read.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the bytes that were read.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns whether it takes little memory.
    pub(crate) fn is_small(&self) -> bool {
        matches!(self.bytes, Bytes::Heap(_))
    }

    /// Returns the SHA-256 of [`bytes`](Self::bytes); computed at the first call.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        *self.sha256.get_or_init(|| Sha256::digest(self.bytes()).into())
    }

    /// Sets the digest that it has in a signed plugin.
    pub(crate) fn with_signed(self, sha256: [u8; 32]) -> Self {
        Self { signed: Some(sha256), ..self }
    }

    /// Adds the libraries that it links in its folder.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(crate) fn with_dependencies(self, dependencies: Dependencies) -> Self {
        Self { dependencies, ..self }
    }

    /// Returns the libraries that it links in its folder.
    pub(crate) fn dependencies(&self) -> &Dependencies {
        &self.dependencies
    }

    /// Returns its digest if it has no dependencies, else one of all files and their paths.
    /// Computed at the first call.
    pub(crate) fn content(&self) -> [u8; 32] {
        *self.content.get_or_init(|| self.compute_content())
    }

    /// Returns the place of [`content`](Self::content), which outlives the bytes.
    pub(crate) fn content_cell(&self) -> Arc<OnceLock<[u8; 32]>> {
        Arc::clone(&self.content)
    }

    fn compute_content(&self) -> [u8; 32] {
        if self.dependencies.files.is_empty() {
            return self.sha256();
        }
        let mut all = Sha256::new_with_prefix(self.sha256());
        for file in &self.dependencies.files {
            let path = file.relative.as_os_str().as_encoded_bytes();
            all.update((path.len() as u64).to_le_bytes());
            all.update(path);
            all.update(file.artifact.sha256());
        }
        all.finalize().into()
    }

    /// Checks owner and mode of the file that was read, as [`trust::check`] does.
    pub(crate) fn check_trust(&self, trust: Trust) -> Result<(), ArtifactError> {
        trust::check_metadata(&self.path, &self.metadata, trust)
    }

    /// Compares the length with that of the manifest.
    pub(crate) fn verify_length(&self, length: Option<u64>) -> Result<(), ArtifactError> {
        let found = self.bytes.len() as u64;
        match length {
            Some(expected) if expected != found => {
                Err(ArtifactError::Length { path: self.path.clone(), found, expected })
            }
            _ => Ok(()),
        }
    }

    /// Compares it and its dependencies with what was signed, if the plugin is signed.
    pub(crate) fn verify_signed(&self) -> Result<(), ArtifactError> {
        match self.signed {
            Some(expected) if expected != self.sha256() => {
                let (path, found) = (self.path.clone(), self.sha256());
                Err(ArtifactError::NotAsSigned { path, found, expected })
            }
            _ => self.dependencies.files.iter().try_for_each(|file| file.artifact.verify_signed()),
        }
    }

    /// Compares length and digest with those of the manifest; the length first, as it costs
    /// nothing.
    ///
    /// The digest of a signed file, and a stated length or digest, must match even if unverified artifacts are allowed.
    pub(crate) fn verify(
        &self,
        sha256: Option<[u8; 32]>,
        length: Option<u64>,
        allow_unverified: bool,
    ) -> Result<(), ArtifactError> {
        self.verify_length(length)?;
        self.verify_signed()?;
        let path = || self.path.clone();
        match sha256 {
            Some(expected) if expected == self.sha256() => Ok(()),
            Some(expected) => {
                Err(ArtifactError::Digest { path: path(), found: self.sha256(), expected })
            }
            None if allow_unverified => Ok(()),
            None => Err(ArtifactError::Unverified { path: path() }),
        }
    }
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artifact")
            .field("path", &self.path)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), ArtifactError> {
    match not_a_file(metadata.file_type()) {
        Some(found) => Err(ArtifactError::NotAFile { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

/// Opens a file without blocking, in case a pipe replaced it.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NONBLOCK);
    }
    options.open(path)
}

/// The content of a file.
///
/// Large files are read by threads that exit soon afterward. An allocator keeps memory that such a
/// thread released for the next thread of the same arena, which may never come. So they are read
/// into an anonymous mapping, which the system frees at once.
enum Bytes {
    Heap(Vec<u8>),
    Mapped { map: MmapMut, len: usize },
}

impl Bytes {
    /// Reads to the end, but at most one byte more than expected or than `max_bytes`, so that an
    /// excess is noticed.
    fn read(file: &mut File, expected: u64, max_bytes: u64) -> io::Result<Self> {
        let capacity = usize::try_from(expected).unwrap_or(usize::MAX).saturating_add(1);
        if expected < MIN_MAPPED_BYTES {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(capacity).map_err(|_| io::ErrorKind::OutOfMemory)?;
            file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
            return Ok(Self::Heap(bytes));
        }
        // One fault for each page would take longer than the copy.
        let mut map = MmapOptions::new().len(capacity).populate().map_anon()?;
        let mut len = 0;
        while len < capacity {
            match file.read(&mut map[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::Mapped { map, len })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped { map, len } => &map[..*len],
        }
    }
}

/// A name by which a library links another one, and the number of that file.
pub(crate) type Link = (String, usize);

/// The libraries that a library links in its plugin's folder. File 0 is the library itself.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    /// The library's path in the plugin's folder.
    pub(crate) library: PathBuf,
    /// The links of the library.
    pub(crate) links: Vec<Link>,
    /// Files 1 and following.
    pub(crate) files: Vec<Dependency>,
    /// Names that were not found in the folder, each with a message about the searched places.
    pub(crate) unresolved: Vec<(String, String)>,
    /// Notes about files in the folder that are not used.
    pub(crate) notes: Vec<String>,
}

/// A library that another one links.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// Its path in the plugin's folder.
    pub(crate) relative: PathBuf,
    pub(crate) artifact: Artifact,
    pub(crate) links: Vec<Link>,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: [u8; 32] = [
        0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22,
        0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00,
        0x15, 0xad,
    ];

    fn abc() -> (tempfile::TempDir, Artifact) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        let artifact = Artifact::read(&path, MAX_BYTES).unwrap();
        (folder, artifact)
    }

    #[test]
    fn length_and_digest_must_be_the_stated_ones() {
        let (_folder, abc) = abc();
        assert_eq!((abc.bytes(), abc.sha256()), (&b"abc"[..], ABC));
        let verified = Some(());
        let unverified = Some(());
        let cases = [
            (Some(ABC), Some(3), false, verified),
            (Some(ABC), None, false, verified),
            (Some(ABC), None, true, verified),
            (Some(ABC), Some(4), true, None),
            (Some([0; 32]), Some(3), true, None),
            (None, Some(3), false, None),
            (None, None, false, None),
            (None, Some(3), true, unverified),
            (None, Some(4), true, None),
            (None, None, true, unverified),
        ];
        for (sha256, length, allowed, expected) in cases {
            let verdict = abc.verify(sha256, length, allowed).ok();
            assert_eq!(verdict, expected, "{sha256:?} {length:?} {allowed}");
        }
    }

    #[test]
    fn large_file_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        let length = usize::try_from(MIN_MAPPED_BYTES).unwrap();
        for length in [length - 1, length, length + 1, 3 * length + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let artifact = Artifact::read(&path, MAX_BYTES).unwrap();
            assert!(artifact.bytes() == bytes, "{length}");
            let too_large = Artifact::read(&path, length as u64 - 1).unwrap_err();
            assert!(matches!(too_large, ArtifactError::TooLarge { .. }), "{too_large}");
        }
    }

    #[test]
    fn what_is_too_large_missing_or_a_folder_is_refused() {
        let (folder, _) = abc();
        let abc = folder.path().join("abc");
        Artifact::read(&abc, 3).unwrap();
        let cases = [
            (abc, 2, "has at least 3 bytes; the limit is 2"),
            (folder.path().join("none"), 9, "cannot read"),
            (folder.path().to_owned(), 9, "is a folder"),
        ];
        for (path, max_bytes, expected) in cases {
            let message = Artifact::read(&path, max_bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "`{expected}` in: {message}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn read_rejects_pipes_and_devices_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        #[expect(clippy::disallowed_methods, reason = "std makes no named pipes")]
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if made.is_ok_and(|status| status.success()) {
            let message = Artifact::read(&pipe, MAX_BYTES).unwrap_err().to_string();
            assert!(message.contains("is a pipe"), "{message}");
            // Also if it replaces the file after the first check.
            assert!(open(&pipe).is_ok());
        } else {
            println!("skipped the pipe: mkfifo not found");
        }
        let message = Artifact::read(Path::new("/dev/zero"), 9).unwrap_err().to_string();
        assert!(message.contains("device"), "{message}");
        // Files of /proc state a length of 0 and hold more.
        let changed = Artifact::read(Path::new("/proc/self/maps"), MAX_BYTES).unwrap_err();
        assert!(matches!(changed, ArtifactError::ChangedWhileRead { .. }), "{changed}");
    }

    #[test]
    fn artifact_stays_the_same_when_file_changes() {
        let (folder, abc) = abc();
        fs::write(folder.path().join("abc"), "another").unwrap();
        assert_eq!((abc.bytes(), abc.sha256()), (&b"abc"[..], ABC));
        abc.check_trust(Trust::default()).unwrap();
    }
}
