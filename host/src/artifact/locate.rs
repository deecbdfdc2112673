//! Finds the files that a manifest names, inside the plugin's folder.
//! Follows no link out of where it may look, and opens nothing.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::OsStr;
use std::fs::FileType;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::artifact::ArtifactError;

/// How many libraries a message lists.
const BESIDE_MAX: usize = 8;

/// The library `stem` of the plugin in `folder`, as this platform names it; without links.
///
/// The file may be a link as long as it leads to a place inside `root_of_trust`; pass `folder`
/// to allow only links within it.
pub(crate) fn library(
    folder: &Path,
    root_of_trust: &Path,
    stem: &str,
) -> Result<PathBuf, ArtifactError> {
    let name = library_file_name(stem);
    if stem.contains(['/', '\\']) {
        let why = "is a path, and a library is named by its stem alone";
        return Err(ArtifactError::NotInside { path: stem.to_owned(), why });
    }
    match resolve(folder, root_of_trust, &name) {
        Err(ArtifactError::Read { path, source }) if is_missing(&path, &source) => {
            Err(ArtifactError::NoLibrary { path, beside: libraries(folder) })
        }
        located => located,
    }
}

/// How this platform names the library `stem`.
pub(crate) fn library_file_name(stem: &str) -> String {
    format!("{DLL_PREFIX}{stem}{DLL_SUFFIX}")
}

/// The regular file `relative` of `folder`, such as a schema or a program; without links.
pub(crate) fn inside(folder: &Path, relative: &str) -> Result<PathBuf, ArtifactError> {
    resolve(folder, folder, relative)
}

fn resolve(folder: &Path, root: &Path, relative: &str) -> Result<PathBuf, ArtifactError> {
    if let Some(why) = objection(relative) {
        return Err(ArtifactError::NotInside { path: relative.to_owned(), why });
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

/// What is wrong with a relative path of a manifest, judged by its text alone.
fn objection(relative: &str) -> Option<&'static str> {
    if relative.is_empty() {
        return Some("is empty");
    }
    if relative.contains('\0') {
        return Some("holds a NUL character");
    }
    // Told apart on every platform, so that a manifest means the same everywhere.
    let has_drive =
        matches!(relative.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    if has_drive || relative.starts_with(['/', '\\']) {
        return Some("is absolute");
    }
    if relative.split(['/', '\\']).any(|part| part == "..") {
        return Some("leads out with `..`");
    }
    let is_plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(relative).components().all(is_plain) {
        return Some("is absolute");
    }
    None
}

/// What stands there, when it is no regular file.
pub(super) fn not_a_file(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else {
        Some("a pipe, socket or device")
    }
}

/// A link that dangles is there all the same, and its own message tells more.
fn is_missing(path: &Path, source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::NotFound
        && path.parent().is_some_and(Path::is_dir)
        && path.symlink_metadata().is_err()
}

/// The names of the libraries in `folder`, sorted.
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
    names.truncate(BESIDE_MAX);
    names
}

fn read_error(path: PathBuf, source: io::Error) -> ArtifactError {
    ArtifactError::Read { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A root with the folders `plugin` and `shared`; the libraries have this platform's names.
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
    fn refused(located: Result<PathBuf, ArtifactError>, wanted: &str) {
        let told = located.unwrap_err().to_string();
        assert!(told.contains(wanted), "`{wanted}` in: {told}");
    }

    #[test]
    fn a_library_is_found_under_the_name_of_the_platform() {
        let root = root();
        let folder = root.path().join("plugin");
        let found = library(&folder, &folder, "one").unwrap();
        assert_eq!(found, root.path().join(named("plugin/one")).canonicalize().unwrap());
        refused(library(&folder, &folder, "two"), &format!("holds `{DLL_PREFIX}one{DLL_SUFFIX}`"));
        refused(library(&folder.join("sub"), &folder, "one"), "holds no library");
        refused(library(&folder.join("gone"), root.path(), "one"), "cannot read");
        refused(library(&folder, root.path(), "../shared/two"), "named by its stem");
        fs::create_dir(root.path().join(named("plugin/dir"))).unwrap();
        refused(library(&folder, &folder, "dir"), "is a folder");
    }

    #[test]
    fn only_plain_paths_of_the_folder_are_taken() {
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
        for (relative, wanted) in cases {
            refused(inside(&folder, relative), wanted);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_must_stay_inside() {
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
        refused(inside(&folder, "secret"), "outside");
        refused(inside(&folder, "up/etc"), "cannot read");
        refused(library(&folder, &folder, "two"), "shared");
        refused(library(&folder, &folder, "gone"), "cannot read");
        let shared = root.path().join(named("shared/two")).canonicalize().unwrap();
        assert_eq!(library(&folder, root.path(), "two").unwrap(), shared);
    }
}
