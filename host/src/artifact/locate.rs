//! Finds the files that a manifest names, inside the plugin's folder. Follows no link out of it,
//! and opens nothing.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::OsStr;
use std::fs::FileType;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::artifact::ArtifactError;

/// Maximum number of libraries that a message lists.
const MAX_LISTED: usize = 8;

/// Returns the canonical path of the library `stem` of the plugin in `folder`.
///
/// The file may be a link to a file inside `root_of_trust`; pass `folder` to allow only links
/// within it.
pub(crate) fn library(
    folder: &Path,
    root_of_trust: &Path,
    stem: &str,
) -> Result<PathBuf, ArtifactError> {
    let name = library_file_name(stem);
    if stem.contains(['/', '\\']) {
        return Err(ArtifactError::StemIsPath(stem.to_owned()));
    }
    match resolve(folder, root_of_trust, &name) {
        Err(ArtifactError::Read { path, source }) if is_missing(&path, &source) => {
            Err(ArtifactError::LibraryNotFound { path, libraries: libraries(folder) })
        }
        located => located,
    }
}

/// Returns the file name of the library `stem` on this platform.
pub(crate) fn library_file_name(stem: &str) -> String {
    format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}")
}

/// Returns the canonical path of the regular file `relative` in `folder`, such as a schema.
pub(crate) fn inside(folder: &Path, relative: &str) -> Result<PathBuf, ArtifactError> {
    resolve(folder, folder, relative)
}

fn resolve(folder: &Path, root: &Path, relative: &str) -> Result<PathBuf, ArtifactError> {
    if let Some(why) = objection(relative) {
        return Err(ArtifactError::InvalidPath { path: relative.to_owned(), why });
    }
    let canonical =
        |path: &Path| path.canonicalize().map_err(|source| read_error(path.to_owned(), source));
    let path = folder.join(relative);
    let root = canonical(root)?;
    let target = canonical(&path)?;
    if !target.starts_with(&root) {
        return Err(ArtifactError::OutsideFolder { link: path, target, root });
    }
    let kind = target.symlink_metadata().map_err(|source| read_error(target.clone(), source))?;
    match not_a_file(kind.file_type()) {
        Some(found) => Err(ArtifactError::NotAFile { path, found }),
        None => Ok(target),
    }
}

/// Returns what is wrong with the text of a relative path of a manifest.
fn objection(relative: &str) -> Option<&'static str> {
    if relative.is_empty() {
        return Some("is empty");
    }
    if relative.contains('\0') {
        return Some("contains a NUL character");
    }
    // Checked on every platform, so that a manifest means the same everywhere.
    let has_drive =
        matches!(relative.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    if has_drive || relative.starts_with(['/', '\\']) {
        return Some("is absolute");
    }
    if relative.split(['/', '\\']).any(|part| part == "..") {
        return Some("leaves the folder with `..`");
    }
    let is_plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(relative).components().all(is_plain) {
        return Some("is absolute");
    }
    None
}

/// Returns what it is if it is not a regular file.
pub(super) fn not_a_file(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else {
        Some("a pipe, socket or device")
    }
}

/// Returns whether the file itself is missing: a dangling link has a better message.
fn is_missing(path: &Path, source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::NotFound
        && path.parent().is_some_and(Path::is_dir)
        && path.symlink_metadata().is_err()
}

/// Returns the names of the libraries in `folder`, sorted.
fn libraries(folder: &Path) -> Vec<String> {
    let is_library = |name: &OsStr| name.as_encoded_bytes().ends_with(DLL_SUFFIX.as_bytes());
    let mut names: Vec<String> = folder
        .read_dir()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| is_library(name))
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.truncate(MAX_LISTED);
    names
}

fn read_error(path: PathBuf, source: io::Error) -> ArtifactError {
    ArtifactError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Creates a root with the folders `plugin` and `shared`, and libraries named for this
    /// platform.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["plugin/sub", "shared"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for file in ["plugin/sub/schema.json", "plugin/schema.json", "secret"] {
            fs::write(root.path().join(file), "x").unwrap();
        }
        for stem in ["plugin/one", "shared/two"] {
            fs::write(root.path().join(named(stem)), "x").unwrap();
        }
        root
    }

    fn named(stem: &str) -> String {
        let (folder, stem) = stem.split_once('/').unwrap();
        format!("{folder}/{DLL_PREFIX}{stem}{DLL_SUFFIX}")
    }

    #[track_caller]
    fn assert_error(located: Result<PathBuf, ArtifactError>, expected: &str) {
        let message = located.unwrap_err().to_string();
        assert!(message.contains(expected), "`{expected}` in: {message}");
    }

    #[test]
    fn library_is_found_by_platform_file_name() {
        let root = root();
        let folder = root.path().join("plugin");
        let found = library(&folder, &folder, "one").unwrap();
        assert_eq!(found, root.path().join(named("plugin/one")).canonicalize().unwrap());
        assert_error(
            library(&folder, &folder, "two"),
            &format!("contains `{DLL_PREFIX}one{DLL_SUFFIX}`"),
        );
        assert_error(library(&folder.join("sub"), &folder, "one"), "contains no library");
        assert_error(library(&folder.join("gone"), root.path(), "one"), "cannot read");
        assert_error(
            library(&folder, root.path(), "../shared/two"),
            "is a path; expected the stem",
        );
        fs::create_dir(root.path().join(named("plugin/dir"))).unwrap();
        assert_error(library(&folder, &folder, "dir"), "is a folder");
    }

    #[test]
    fn only_plain_paths_inside_folder_are_accepted() {
        let root = root();
        let folder = root.path().join("plugin");
        for good in ["schema.json", "sub/schema.json", "./schema.json"] {
            inside(&folder, good).unwrap();
        }
        let cases = [
            ("", "is empty"),
            ("../secret", "`..`"),
            ("sub/../schema.json", "`..`"),
            ("sub\\..\\..\\secret", "`..`"),
            ("/etc/passwd", "is absolute"),
            ("\\\\server\\x", "is absolute"),
            ("C:\\x", "is absolute"),
            ("a\0b", "NUL"),
            ("sub", "is a folder"),
            ("none.json", "cannot read"),
        ];
        for (relative, expected) in cases {
            assert_error(inside(&folder, relative), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn link_must_stay_inside_folder() {
        use std::os::unix::fs::symlink;
        let root = root();
        let folder = root.path().join("plugin");
        symlink("../../", folder.join("up")).unwrap();
        symlink("../secret", folder.join("secret")).unwrap();
        symlink("sub/schema.json", folder.join("link.json")).unwrap();
        symlink("nowhere", root.path().join(named("plugin/gone"))).unwrap();
        let two = root.path().join(named("plugin/two"));
        symlink(root.path().join(named("shared/two")), &two).unwrap();

        inside(&folder, "link.json").unwrap();
        assert_error(inside(&folder, "secret"), "outside");
        assert_error(inside(&folder, "up/etc"), "cannot read");
        assert_error(library(&folder, &folder, "two"), "shared");
        assert_error(library(&folder, &folder, "gone"), "cannot read");
        let shared = root.path().join(named("shared/two")).canonicalize().unwrap();
        assert_eq!(library(&folder, root.path(), "two").unwrap(), shared);
    }
}
