//! Checks the other files in the folder of a plugin's program: scripts, modules, libraries.
//! Applies the rules for the program to them, and to all folders below; opens nothing.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::trust::{self, Trust};
use crate::error::artifact::ArtifactError;

/// Maximum number of files, folders and links in a plugin's folder.
const MAX_ENTRIES: usize = 100_000;
/// Maximum depth of nested folders, including the plugin's.
const MAX_DEPTH: usize = 64;

/// Rejects files that users other than root and this one may change, and links that lead out of
/// `folder`, which is a canonical path. Ignores sockets, pipes and devices.
pub(super) fn check(folder: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let mut entries = 0;
    let mut pending = vec![(folder.to_owned(), 1)];
    while let Some((below, depth)) = pending.pop() {
        let failed = |source| ArtifactError::Read { path: below.clone(), source };
        for entry in fs::read_dir(&below).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            entries += 1;
            if entries > MAX_ENTRIES || depth > MAX_DEPTH {
                let path = folder.to_owned();
                return Err(ArtifactError::TooManyFiles {
                    path,
                    max_entries: MAX_ENTRIES,
                    max_depth: MAX_DEPTH,
                });
            }
            let path = entry.path();
            let metadata = match path.symlink_metadata() {
                Ok(metadata) => metadata,
                // Temporary files come and go.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(ArtifactError::Read { path, source }),
            };
            let kind = metadata.file_type();
            if kind.is_symlink() {
                check_link(folder, &below, path)?;
            } else if kind.is_dir() || kind.is_file() {
                trust::check_metadata(&path, &metadata, trust)?;
                if kind.is_dir() {
                    pending.push((path, depth + 1));
                }
            }
        }
    }
    Ok(())
}

/// Rejects a link out of the folder. Targets inside it are checked on their own.
fn check_link(folder: &Path, below: &Path, link: PathBuf) -> Result<(), ArtifactError> {
    let target = match link.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It dangles: only a target inside the folder can appear safely later.
            let failed = |source| ArtifactError::Read { path: link.clone(), source };
            let target = match link.read_link() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                target => target.map_err(failed)?,
            };
            let is_plain =
                |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
            match target.components().all(is_plain) {
                true => return Ok(()),
                false => below.join(target),
            }
        }
        Err(source) => return Err(ArtifactError::Read { path: link, source }),
    };
    if target.starts_with(folder) && !target.components().any(|part| part == Component::ParentDir) {
        return Ok(());
    }
    Err(ArtifactError::OutsideFolder { link, target, root: folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Creates a valid folder with a canonical path.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().canonicalize().unwrap();
        fs::create_dir_all(folder.join("lib/deep")).unwrap();
        for file in ["helper.py", "lib/mod.py", "lib/deep/more.py"] {
            fs::write(folder.join(file), "x").unwrap();
            set_mode(&folder.join(file), 0o644);
        }
        for below in ["lib", "lib/deep"] {
            set_mode(&folder.join(below), 0o755);
        }
        symlink("lib/mod.py", folder.join("inside")).unwrap();
        symlink("nowhere", folder.join("dangling")).unwrap();
        (temporary, folder)
    }

    #[test]
    fn writable_file_is_rejected_at_every_depth() {
        for (changed, mode) in [
            ("helper.py", 0o666),
            ("helper.py", 0o664),
            ("lib/deep/more.py", 0o646),
            ("lib", 0o777),
            ("lib/deep", 0o1777),
        ] {
            let (_temporary, folder) = folder();
            check(&folder, Trust::default()).unwrap();
            set_mode(&folder.join(changed), mode);
            let error = check(&folder, Trust::default()).unwrap_err();
            let hint = error.hint().unwrap_or_default();
            assert!(error.to_string().contains(changed) && hint.contains("chmod go-w"), "{error}");
            check(&folder, Trust { allow_writable_by_others: true }).unwrap();
        }
    }

    #[test]
    fn links_out_of_folder_are_rejected() {
        for target in ["/etc/passwd", "../x", "/nowhere/at/all", "lib/../../x"] {
            let (_temporary, folder) = folder();
            symlink(target, folder.join("lib/link")).unwrap();
            let error = check(&folder, Trust::default()).unwrap_err().to_string();
            assert!(error.contains("lib/link") && error.contains("outside"), "{error}");
        }
    }

    #[test]
    fn nested_folders_are_followed_to_a_limit() {
        let (_temporary, folder) = folder();
        let mut below = folder.clone();
        for _ in 0..=MAX_DEPTH {
            below.push("d");
            fs::create_dir(&below).unwrap();
            set_mode(&below, 0o755);
        }
        let error = check(&folder, Trust::default()).unwrap_err().to_string();
        assert!(error.contains("64"), "{error}");
    }
}
