//! Resolves a path one component after the other, to find the folders on which its meaning depends: a
//! process that can change one of them can replace a component by a link.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The number of links after which Linux also gives up.
const MAX_LINKS: usize = 40;

/// What a path leads to.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The file or folder, by a path without links.
    pub(crate) target: PathBuf,
    /// The folders in which a component was looked up, also of links, by paths without links.
    pub(crate) folders: Vec<PathBuf>,
}

impl Lookup {
    /// Resolves an absolute path. Accesses the disk.
    ///
    /// # Errors
    ///
    /// I/O errors, such as `NotFound`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        if !path.is_absolute() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (mut target, mut folders, mut links) = (PathBuf::from("/"), Vec::new(), 0);
        let mut rest = components(path);
        while let Some(component) = rest.pop_front() {
            if component == ".." {
                target.pop();
                continue;
            }
            folders.push(target.clone());
            target.push(component);
            if !target.symlink_metadata()?.is_symlink() {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::other("too many links"));
            }
            let link = target.read_link()?;
            target.pop();
            if link.is_absolute() {
                target = PathBuf::from("/");
            }
            for component in components(&link).into_iter().rev() {
                rest.push_front(component);
            }
        }
        Ok(Self { target, folders })
    }

    /// Returns whether a process that can change `writable` can change what the path leads to.
    pub(crate) fn depends_on(&self, writable: &[PathBuf]) -> bool {
        self.folders.iter().any(|folder| writable.iter().any(|it| folder.starts_with(it)))
    }
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
        fs::create_dir(root.join("apps")).expect("a folder");
        symlink("../releases/5", root.join("apps/current")).expect("a link");
        symlink(root.join("apps/current"), root.join("absolute")).expect("a link");
        for path in ["apps/current", "absolute", "apps/../absolute/.", "apps//current/"] {
            let found = Lookup::of(&root.join(path)).expect(path);
            assert_eq!(found.target, root.join("releases/5"), "{path}");
            assert!(found.depends_on(&[root.join("releases")]), "{path}");
            assert!(found.depends_on(&[root.join("apps")]), "{path}");
            assert!(!found.depends_on(&[root.join("releases/5")]), "{path}");
            assert!(!found.depends_on(&[root.join("other")]), "{path}");
        }
        symlink("loop", root.join("loop")).expect("a link");
        for path in ["loop", "none", "apps/none/x"] {
            Lookup::of(&root.join(path)).expect_err(path);
        }
        Lookup::of(Path::new("relative")).expect_err("no folder to start from");
    }
}
