//! What lies in a plugin's folder besides its program, and runs with it: scripts, modules, libraries.
//! Judged as the program is, the folders below too; opens nothing.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::trust::{self, Trust};
use crate::error::artifact::ArtifactError;

/// Files, folders and links that a plugin's folder may hold in all.
const ENTRIES_MAX: usize = 100_000;
/// Folders in each other, the plugin's folder counted.
const DEPTH_MAX: usize = 64;

/// Refuses what users other than root and this one may change, and links that lead out of
/// `folder`, which is without links itself. Sockets, pipes and devices are none of its business.
pub(super) fn check(folder: &Path, trust: Trust) -> Result<(), ArtifactError> {
    if trust.allow_writable_by_others {
        return Ok(());
    }
    let mut entries = 0;
    let mut to_do = vec![(folder.to_owned(), 1)];
    while let Some((below, depth)) = to_do.pop() {
        let failed = |source| ArtifactError::Read { path: below.clone(), source };
        for entry in fs::read_dir(&below).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            entries += 1;
            if entries > ENTRIES_MAX || depth > DEPTH_MAX {
                let path = folder.to_owned();
                return Err(ArtifactError::TooManyBeside {
                    path,
                    entries_max: ENTRIES_MAX,
                    depth_max: DEPTH_MAX,
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
                    to_do.push((path, depth + 1));
                }
            }
        }
    }
    Ok(())
}

/// What it leads to inside the folder is looked at in its own place.
fn check_link(folder: &Path, below: &Path, link: PathBuf) -> Result<(), ArtifactError> {
    let target = match link.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It leads nowhere: only where that is may change what it stands for.
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

    /// A folder that is fine, without links in its own path.
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
    fn what_others_may_change_is_refused_at_every_depth() {
        for (spoilt, mode) in [
            ("helper.py", 0o666),
            ("helper.py", 0o664),
            ("lib/deep/more.py", 0o646),
            ("lib", 0o777),
            ("lib/deep", 0o1777),
        ] {
            let (_temporary, folder) = folder();
            check(&folder, Trust::default()).unwrap();
            set_mode(&folder.join(spoilt), mode);
            let error = check(&folder, Trust::default()).unwrap_err();
            let hint = error.hint().unwrap_or_default();
            assert!(error.to_string().contains(spoilt) && hint.contains("chmod go-w"), "{error}");
            check(&folder, Trust { allow_writable_by_others: true }).unwrap();
        }
    }

    #[test]
    fn links_that_lead_out_are_refused() {
        for target in ["/etc/passwd", "../x", "/nowhere/at/all", "lib/../../x"] {
            let (_temporary, folder) = folder();
            symlink(target, folder.join("lib/link")).unwrap();
            let refused = check(&folder, Trust::default()).unwrap_err().to_string();
            assert!(refused.contains("lib/link") && refused.contains("outside"), "{refused}");
        }
    }

    #[test]
    fn folders_in_each_other_are_followed_to_a_limit() {
        let (_temporary, folder) = folder();
        let mut below = folder.clone();
        for _ in 0..=DEPTH_MAX {
            below.push("d");
            fs::create_dir(&below).unwrap();
            set_mode(&below, 0o755);
        }
        let refused = check(&folder, Trust::default()).unwrap_err().to_string();
        assert!(refused.contains("64"), "{refused}");
    }
}
