//! Checks whether untrusted users can change a file or folder. Reads only owners and modes; never
//! changes them.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::artifact::ArtifactError;
use crate::signatures::SignatureRules;

/// The rule that decides which files are accepted.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) allow_unverified: bool,
    pub(crate) allow_writable_by_others: bool,
    pub(crate) max_library_bytes: u64,
    pub(crate) signatures: Arc<SignatureRules>,
}

impl Rules {
    pub(crate) fn trust(&self) -> Trust {
        Trust { allow_writable_by_others: self.allow_writable_by_others }
    }
}

/// The rule that decides which files are trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Whether to accept files that other users own or can write to.
    pub(crate) allow_writable_by_others: bool,
}

/// Rejects `path` if users other than root and this one can change it.
///
/// Follows links: the target counts. Accepts everything on systems without Unix modes.
pub(crate) fn check(path: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let metadata = path.metadata().map_err(|source| read_error(path, source))?;
    check_metadata(path, &metadata, trust)
}

/// Checks every folder from `root` down to `path`, and `path` itself, as [`check`] does.
///
/// A user who can write to a folder can replace everything below it. Both paths are resolved
/// first; if `path` is outside `root`, only `path` itself is checked.
pub(crate) fn check_chain(root: &Path, path: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let resolve = |path: &Path| path.canonicalize().map_err(|source| read_error(path, source));
    let (root, path): (PathBuf, PathBuf) = (resolve(root)?, resolve(path)?);
    if !path.starts_with(&root) {
        return check(&path, trust);
    }
    let folders: Vec<&Path> =
        path.ancestors().take_while(|folder| folder.starts_with(&root)).collect();
    folders.into_iter().rev().try_for_each(|folder| check(folder, trust))
}

/// Rejects `path` if other users can change a folder above it, up to the root of the file system:
/// they could replace the folder.
///
/// As in sshd, but a sticky folder such as `/tmp` is accepted: there only the owner of an entry
/// can rename it. Of a path that does not exist, checks the folders that do.
pub(crate) fn check_above(path: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let (resolved, skipped) = match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let existing = path.ancestors().find_map(|above| above.canonicalize().ok());
            (existing.unwrap_or_default(), 0)
        }
        resolved => (resolved.map_err(|source| read_error(path, source))?, 1),
    };
    resolved.ancestors().skip(skipped).try_for_each(|above| {
        let metadata = above.metadata().map_err(|source| read_error(above, source))?;
        check_above_metadata(above, &metadata)
    })
}

#[cfg(unix)]
fn check_above_metadata(above: &Path, metadata: &Metadata) -> Result<(), ArtifactError> {
    use std::os::unix::fs::MetadataExt;

    const STICKY: u32 = 0o1000;
    let mode = metadata.mode();
    let mode = if mode & STICKY != 0 { mode & !WRITABLE_BY_OTHERS } else { mode };
    check_owner_and_mode(above, mode, metadata.uid(), || {
        user().map_err(|source| read_error(above, source))
    })
}

/// Accepts everything: the system has no Unix modes.
#[cfg(not(unix))]
fn check_above_metadata(_: &Path, _: &Metadata) -> Result<(), ArtifactError> {
    Ok(())
}

/// Checks the metadata of an open file, which no one can replace meanwhile, as [`check`] does.
#[cfg(unix)]
pub(crate) fn check_metadata(
    path: &Path,
    metadata: &Metadata,
    trust: Trust,
) -> Result<(), ArtifactError> {
    use std::os::unix::fs::MetadataExt;

    if trust.allow_writable_by_others {
        return Ok(());
    }
    let user = || user().map_err(|source| read_error(path, source));
    check_owner_and_mode(path, metadata.mode(), metadata.uid(), user)
}

/// Accepts everything: the system has no Unix modes.
#[cfg(not(unix))]
pub(crate) fn check_metadata(_: &Path, _: &Metadata, _: Trust) -> Result<(), ArtifactError> {
    Ok(())
}

fn read_error(path: &Path, source: std::io::Error) -> ArtifactError {
    ArtifactError::Read { path: path.to_owned(), source }
}

/// The mode bits by which the group and all users can write.
#[cfg(unix)]
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Checks a mode and an owner; calls `user` only if the owner is not root.
#[cfg(unix)]
fn check_owner_and_mode(
    path: &Path,
    mode: u32,
    owner: u32,
    user: impl FnOnce() -> Result<u32, ArtifactError>,
) -> Result<(), ArtifactError> {
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(ArtifactError::WritableByOthers { path: path.to_owned(), mode });
    }
    if owner == 0 {
        return Ok(());
    }
    let user = user()?;
    if owner == user {
        return Ok(());
    }
    Err(ArtifactError::ForeignOwner { path: path.to_owned(), owner, user })
}

/// Returns the effective user, who owns new files of this process.
///
/// Falls back to a new file, since `/proc/self` belongs to root in a process that is not dumpable.
#[cfg(unix)]
fn user() -> std::io::Result<u32> {
    use std::os::unix::fs::MetadataExt;

    let proc_owner = Path::new("/proc/self").metadata().map(|metadata| metadata.uid());
    match proc_owner {
        Ok(owner) if owner != 0 => Ok(owner),
        _ => Ok(tempfile::tempfile()?.metadata()?.uid()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_root_and_own_user_may_write() {
        let cases = [
            (0o755, 0, true),
            (0o755, 1000, true),
            (0o644, 1000, true),
            (0o500, 1000, true),
            (0o755, 1001, false),
            (0o775, 1000, false),
            (0o757, 1000, false),
            (0o777, 0, false),
            (0o1777, 0, false),
        ];
        for (mode, owner, accepted) in cases {
            let result = check_owner_and_mode(Path::new("x"), mode, owner, || Ok(1000));
            assert_eq!(result.is_ok(), accepted, "mode {mode:o}, owner {owner}");
        }
    }

    #[test]
    fn writable_file_is_rejected_unless_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        check(file.path(), Trust::default()).unwrap();
        file.as_file().set_permissions(fs::Permissions::from_mode(0o666)).unwrap();
        let error = check(file.path(), Trust::default()).unwrap_err();
        assert!(error.to_string().contains("mode 0666"), "{error}");
        check(file.path(), Trust { allow_writable_by_others: true }).unwrap();
    }

    #[test]
    fn writable_folder_on_path_is_rejected() {
        let root = tempfile::tempdir().unwrap();
        let middle = root.path().join("middle");
        let folder = middle.join("plugin");
        fs::create_dir_all(&folder).unwrap();
        for path in [&middle, &folder] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        check_chain(root.path(), &folder, Trust::default()).unwrap();
        fs::set_permissions(&middle, fs::Permissions::from_mode(0o775)).unwrap();
        check(&folder, Trust::default()).unwrap();
        let error = check_chain(root.path(), &folder, Trust::default()).unwrap_err();
        assert!(error.to_string().contains("middle`"), "{error}");
    }

    #[test]
    fn writable_ancestor_is_rejected_unless_sticky() {
        let root = tempfile::tempdir().unwrap();
        let middle = root.path().join("middle");
        let folder = middle.join("root/plugin");
        fs::create_dir_all(&folder).unwrap();
        for (mode, accepted) in [
            (0o755, true),
            (0o1777, true),
            (0o1775, true),
            (0o711, true),
            (0o777, false),
            (0o775, false),
            (0o2775, false),
        ] {
            fs::set_permissions(&middle, fs::Permissions::from_mode(mode)).unwrap();
            for path in [&folder, &middle.join("root")] {
                let result = check_above(path, Trust::default());
                assert_eq!(result.is_ok(), accepted, "{mode:o}: {result:?}");
                check_above(path, Trust { allow_writable_by_others: true }).unwrap();
            }
        }
        check_above(&middle, Trust::default()).unwrap();
    }

    #[test]
    fn user_is_owner_of_new_files() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(user().unwrap(), file.as_file().metadata().unwrap().uid());
    }
}
