//! Resolves a path one component after the other, to find the folders on which its meaning depends: a
//! process that can change one of them can replace a component by a link.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The number of links after which Linux also gives up.
const MAX_LINKS: usize = 40;

/// What identifies a file or folder, by whatever path: a folder can be mounted in several places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// What was found of a path.
#[derive(Debug)]
pub(crate) enum Walk {
    Found(Lookup),
    /// The folder in which a component cannot be resolved, and the error.
    Missing(Lookup, io::Error),
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The file or folder, by a path without links.
    pub(crate) target: PathBuf,
    pub(crate) id: Id,
    /// The folders in which a component was looked up, also of links.
    pub(crate) folders: Vec<Id>,
}

impl Lookup {
    /// Resolves an absolute path. Accesses the disk.
    ///
    /// # Errors
    ///
    /// I/O errors, such as `NotFound`; `InvalidInput` for files of a process, which differ between
    /// processes.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        match Self::walk(path)? {
            Walk::Found(found) => Ok(found),
            Walk::Missing(_, error) => Err(error),
        }
    }

    /// Resolves a path, or if it does not exist, the folder in which a component is missing, or cannot
    /// be resolved: also of what a link leads to. Accesses the disk.
    ///
    /// # Errors
    ///
    /// `InvalidInput`, as of [`of`](Self::of).
    pub(crate) fn walk(path: &Path) -> io::Result<Walk> {
        if !path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not absolute"));
        }
        let root = PathBuf::from("/");
        let root_id = id_of(&root.symlink_metadata()?);
        let mut found = Self { target: root, id: root_id, folders: Vec::new() };
        let (mut above, mut links) = (Vec::new(), 0);
        let mut rest = components(path);
        while let Some(component) = rest.pop_front() {
            if component == ".." {
                found.target.pop();
                found.id = above.pop().unwrap_or(root_id);
                continue;
            }
            if found.target == Path::new("/proc") && is_process(&component) {
                let message =
                    "it leads to files of a process, which are other ones in each process";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            found.folders.push(found.id);
            found.target.push(component);
            let metadata = match found.target.symlink_metadata() {
                Ok(metadata) => metadata,
                Err(error) => {
                    found.target.pop();
                    return Ok(Walk::Missing(found, error));
                }
            };
            if !metadata.is_symlink() {
                above.push(found.id);
                found.id = id_of(&metadata);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "it has too many links");
                found.target.pop();
                return Ok(Walk::Missing(found, error));
            }
            let link = found.target.read_link()?;
            found.target.pop();
            if link.is_absolute() {
                found.target = PathBuf::from("/");
                found.id = root_id;
                above.clear();
            }
            for component in components(&link).into_iter().rev() {
                rest.push_front(component);
            }
        }
        Ok(Walk::Found(found))
    }

    /// Returns whether a process that can change one of these folders can change what the path leads
    /// to.
    pub(crate) fn depends_on(&self, writable: &[Id]) -> bool {
        self.folders.iter().any(|folder| writable.contains(folder))
    }

    /// Returns whether this is `other`, or a folder above it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        self.id == other.id || other.folders.contains(&self.id)
    }
}

fn id_of(metadata: &Metadata) -> Id {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        Id { device: metadata.dev(), inode: metadata.ino() }
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        Id { device: 0, inode: 0 }
    }
}

/// Returns whether a name in `/proc` is that of a process.
fn is_process(name: &OsStr) -> bool {
    let digits = name.as_encoded_bytes();
    name == "self" || name == "thread-self" || digits.iter().all(u8::is_ascii_digit)
}

fn components(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_of_links_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        fs::create_dir_all(root.join("releases/5")).expect("folders");
        for name in ["apps", "other"] {
            fs::create_dir(root.join(name)).expect("a folder");
        }
        symlink("../releases/5", root.join("apps/current")).expect("a link");
        symlink(root.join("apps/current"), root.join("absolute")).expect("a link");
        for path in ["apps/current", "absolute", "apps/../absolute/.", "apps//current/"] {
            let found = Lookup::of(&root.join(path)).expect(path);
            assert_eq!(found.target, root.join("releases/5"), "{path}");
            let id = |name: &str| Lookup::of(&root.join(name)).expect(name).id;
            assert!(found.depends_on(&[id("releases")]), "{path}");
            assert!(found.depends_on(&[id("other"), id("apps")]), "{path}");
            assert!(!found.depends_on(&[id("releases/5"), id("other")]), "{path}");
            let folder = |name: &str| Lookup::of(&root.join(name)).expect(name);
            assert!(folder("releases").contains(&found) && found.contains(&found), "{path}");
            assert!(!folder("other").contains(&found) && !found.contains(&folder("releases")));
        }
        symlink("loop", root.join("loop")).expect("a link");
        for path in ["loop", "none", "apps/none/x"] {
            Lookup::of(&root.join(path)).expect_err(path);
        }
        Lookup::of(Path::new("relative")).expect_err("no folder to start from");
        symlink("other/new/file", root.join("dangling")).expect("a link");
        match Lookup::walk(&root.join("dangling/below")) {
            Ok(Walk::Missing(above, _)) => assert_eq!(above.target, root.join("other")),
            found => panic!("{found:?}"),
        }
        fs::write(root.join("other/file"), "").expect("a file");
        for path in ["other/file/below", "loop/below"] {
            let found = Lookup::walk(&root.join(path));
            assert!(matches!(found, Ok(Walk::Missing(..))), "{path}: {found:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_of_processes_are_refused() {
        for path in ["/proc/self", "/proc/self/status", "/proc/thread-self", "/proc/1/status"] {
            let error = Lookup::of(Path::new(path)).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}: {error}");
        }
        Lookup::of(Path::new("/proc/stat")).expect("a file of the system");
    }
}
