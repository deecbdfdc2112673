//! Whether a file or folder can be changed by anybody who is not trusted anyway.
//! Looks at owners and modes only; never changes them.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use crate::error::artifact::ArtifactError;

/// Which files are trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Also those that other users own or may write to.
    pub(crate) allow_writable_by_others: bool,
}

/// Refuses `path` when users other than root and this one may change it.
///
/// Follows links: what counts is the file at the end. Accepts everything where there are no
/// Unix modes.
pub(crate) fn check(path: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let metadata = path.metadata().map_err(|source| read_error(path, source))?;
    check_metadata(path, &metadata, trust)
}

/// [`check`]s every folder from `root` down to `path`, and `path` itself.
///
/// A folder that somebody may write to lets them replace everything below it. Both paths are
/// resolved first; of a `path` outside of `root` only itself is checked.
pub(crate) fn check_chain(root: &Path, path: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let resolve = |path: &Path| path.canonicalize().map_err(|source| read_error(path, source));
    let (root, path): (PathBuf, PathBuf) = (resolve(root)?, resolve(path)?);
    if !path.starts_with(&root) {
        return check(&path, trust);
    }
    let links: Vec<&Path> = path.ancestors().take_while(|step| step.starts_with(&root)).collect();
    links.into_iter().rev().try_for_each(|step| check(step, trust))
}

/// Refuses `path` when others may change a folder above it, up to the root of the file system: who
/// may rename a folder can put anything in its place.
///
/// As sshd does, but a sticky folder such as `/tmp` is accepted: there only the owner of what is
/// below it can rename that.
pub(crate) fn check_above(path: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let resolved = path.canonicalize().map_err(|source| read_error(path, source))?;
    resolved.ancestors().skip(1).try_for_each(|above| {
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
    judge(above, mode, metadata.uid(), || user().map_err(|source| read_error(above, source)))
}

/// Accepts everything: there are no Unix modes here.
#[cfg(not(unix))]
fn check_above_metadata(_: &Path, _: &Metadata) -> Result<(), ArtifactError> {
    Ok(())
}

/// [`check`]s what is known of an open file, so that nobody can swap it in between.
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
    judge(path, metadata.mode(), metadata.uid(), user)
}

/// Accepts everything: there are no Unix modes here.
#[cfg(not(unix))]
pub(crate) fn check_metadata(_: &Path, _: &Metadata, _: Trust) -> Result<(), ArtifactError> {
    Ok(())
}

fn read_error(path: &Path, source: std::io::Error) -> ArtifactError {
    ArtifactError::Read { path: path.to_owned(), source }
}

/// Of a mode: the group's and everybody's right to write.
#[cfg(unix)]
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Decides about a mode and an owner; asks for `user` only when the owner is not root.
#[cfg(unix)]
fn judge(
    path: &Path,
    mode: u32,
    owner: u32,
    user: impl FnOnce() -> Result<u32, ArtifactError>,
) -> Result<(), ArtifactError> {
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(ArtifactError::Writable { path: path.to_owned(), mode });
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

/// The effective user: who owns what this process makes.
///
/// A fresh file and not `/proc/self`, which belongs to root in a process that may not be dumped.
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
    fn only_root_and_the_own_user_may_be_able_to_write() {
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
            let verdict = judge(Path::new("x"), mode, owner, || Ok(1000));
            assert_eq!(verdict.is_ok(), accepted, "mode {mode:o}, owner {owner}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_to_is_refused_unless_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        check(file.path(), Trust::default()).unwrap();
        file.as_file().set_permissions(fs::Permissions::from_mode(0o666)).unwrap();
        let refused = check(file.path(), Trust::default()).unwrap_err();
        assert!(refused.to_string().contains("mode 0666"), "{refused}");
        check(file.path(), Trust { allow_writable_by_others: true }).unwrap();
    }

    #[test]
    fn a_writable_folder_on_the_way_spoils_what_is_below() {
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
        let refused = check_chain(root.path(), &folder, Trust::default()).unwrap_err();
        assert!(refused.to_string().contains("middle`"), "{refused}");
    }

    #[test]
    fn writable_ancestor_is_refused_unless_it_is_sticky() {
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
                let verdict = check_above(path, Trust::default());
                assert_eq!(verdict.is_ok(), accepted, "{mode:o}: {verdict:?}");
                check_above(path, Trust { allow_writable_by_others: true }).unwrap();
            }
        }
        check_above(&middle, Trust::default()).unwrap();
    }

    #[test]
    fn the_user_is_who_owns_fresh_files() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(user().unwrap(), file.as_file().metadata().unwrap().uid());
    }
}
