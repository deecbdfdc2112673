//! Where a path of a policy leads to, and whether it may: a program that can change a part of the path
//! could have replaced it by a link.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::PathError;
use crate::lookup::{Id, Lookup, Walk};

/// A file or folder of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedPath {
    /// Absolute, or begins with [`TMP`](crate::TMP).
    pub path: PathBuf,
    limit: Limit,
}

/// Where links in a path may lead. If the path passes through shared folders, it must not leave any
/// of them, either.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Limit {
    /// Anywhere.
    None,
    /// Into this folder, given by a path without links.
    Inside(PathBuf),
    /// Into one of these, as far as they lead there themselves without a limit.
    Below(Vec<PathBuf>),
}

impl GrantedPath {
    /// Creates a path that must not leave `folder`, given by a path without links.
    pub fn inside(path: PathBuf, folder: PathBuf) -> Self {
        Self { path, limit: Limit::Inside(folder) }
    }

    /// Creates a path that must not leave all of these files and folders.
    pub fn below(path: PathBuf, paths: Vec<PathBuf>) -> Self {
        Self { path, limit: Limit::Below(paths) }
    }

    /// Returns whether this leads to `path`, or to a folder above it, perhaps by another mount. Accesses
    /// the disk.
    pub fn contains(&self, path: &Path, shared: &SharedFolders) -> bool {
        let Ok(found) = self.lookup(shared) else { return false };
        match Lookup::walk(path) {
            Ok(Walk::Found(path) | Walk::Missing(path, _)) => found.contains(&path),
            Err(_) => false,
        }
    }

    /// Resolves the path. Accesses the disk.
    ///
    /// # Errors
    ///
    /// I/O errors such as `NotFound`, and a path that leads out of its folders.
    pub fn target(&self, shared: &SharedFolders) -> Result<PathBuf, PathError> {
        self.lookup(shared).map(|found| found.target)
    }

    pub(crate) fn lookup(&self, shared: &SharedFolders) -> Result<Lookup, PathError> {
        let found = Lookup::of(&self.path).map_err(PathError::Io)?;
        let of_limit = match &self.limit {
            Limit::None => None,
            Limit::Inside(folder) => Some(vec![folder.clone()]),
            Limit::Below(paths) => {
                let target = |path: &PathBuf| Self::from(path).target(shared).ok();
                Some(paths.iter().filter_map(target).collect())
            }
        };
        // A program that can change one of them decides about the rest of the path.
        let passed = shared.passed_by(&found).map(|folder| vec![folder.clone()]);
        let is_outside =
            |folders: &Vec<PathBuf>| !folders.iter().any(|folder| found.target.starts_with(folder));
        let outside = of_limit.into_iter().chain(passed).find(is_outside);
        match outside {
            Some(folders) => Err(PathError::LeadsOut { target: found.target, folders }),
            None => Ok(found),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for GrantedPath {
    /// Creates a path that may lead anywhere, unless it passes through a shared folder.
    fn from(path: P) -> Self {
        Self { path: path.into(), limit: Limit::None }
    }
}

/// Removes folders that were replaced by a link: whose paths pass through another of these folders,
/// and lead out of it. Otherwise a program could declare any folder to be one that programs change.
fn without_links_out(mut folders: Vec<Lookup>) -> Vec<Lookup> {
    let mut kept: Vec<Lookup> = Vec::new();
    let mut targets: BTreeMap<Id, PathBuf> = BTreeMap::new();
    loop {
        folders.retain(|folder| {
            let mut outer = folder.folders.iter().filter_map(|id| targets.get(id));
            outer.all(|outer| folder.target.starts_with(outer))
        });
        let ids: BTreeSet<_> = folders.iter().map(|folder| folder.id).collect();
        let (waiting, known): (Vec<_>, Vec<_>) = folders
            .into_iter()
            .partition(|folder| folder.folders.iter().any(|id| ids.contains(id)));
        // If all wait for each other, none can be said to be above the others.
        if known.is_empty() {
            kept.extend(waiting);
            return kept;
        }
        targets.extend(known.iter().map(|folder| (folder.id, folder.target.clone())));
        kept.extend(known);
        folders = waiting;
    }
}

/// Folders that programs can change.
#[derive(Debug, Default)]
pub struct SharedFolders(Vec<(PathBuf, Id)>);

impl SharedFolders {
    /// Resolves the paths of such folders, and of all folders in `states`, of which each belongs to
    /// another program; omits those that do not exist. Accesses the disk.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p PathBuf>, states: Option<&Path>) -> Self {
        let states = states.and_then(|states| std::fs::read_dir(states).ok());
        let states = states.into_iter().flatten().flatten().map(|entry| entry.path());
        let paths = paths.into_iter().filter_map(|path| Lookup::of(path).ok());
        let found: Vec<_> = paths.chain(states.filter_map(|path| Lookup::of(&path).ok())).collect();
        Self(without_links_out(found).into_iter().map(|it| (it.target, it.id)).collect())
    }

    /// Returns whether a program can change what a path leads to, or create it if it does not exist.
    /// Accesses the disk.
    pub fn can_replace(&self, path: &Path) -> bool {
        let ids: Vec<_> = self.0.iter().map(|(_, id)| *id).collect();
        match Lookup::walk(path) {
            Ok(Walk::Found(found)) => found.depends_on(&ids),
            Ok(Walk::Missing(found, _)) => found.depends_on(&ids) || ids.contains(&found.id),
            Err(_) => false,
        }
    }

    fn passed_by(&self, found: &Lookup) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().filter(|(_, id)| found.depends_on(&[*id])).map(|(path, _)| path)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_in_shared_folders_lead_to_nothing_outside() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        for name in
            ["shared/own", "shared/inner", "other/below", "secret", "states/a/own", "states/b"]
        {
            fs::create_dir_all(root.join(name)).expect("a folder");
        }
        for (link, target) in [
            ("shared/out", "../secret"),
            ("shared/other", "../other"),
            ("shared/below_other", "../other/below"),
            ("shared/in", "own"),
            ("through", "shared/in"),
            ("plain", "secret"),
            ("shared/own/out", "../inner/file"),
            ("states/a/out", "../b"),
            ("states/a/in", "own"),
        ] {
            symlink(target, root.join(link)).expect("a link");
        }
        let paths = ["shared/own", "shared", "other", "none", "shared/out"];
        let paths = paths.map(|name| root.join(name));
        let shared = SharedFolders::new(&paths, Some(&root.join("states")));
        let check = |granted: GrantedPath, expected: Option<&str>| match (
            granted.target(&shared),
            expected,
        ) {
            (Ok(target), Some(expected)) => assert_eq!(target, root.join(expected)),
            (Err(PathError::LeadsOut { .. }), None) => {}
            (found, _) => panic!("{granted:?} leads to {found:?}"),
        };
        let at = |name: &str| root.join(name);
        check(at("shared/in").into(), Some("shared/own"));
        check(at("through").into(), Some("shared/own"));
        check(at("plain").into(), Some("secret"));
        check(at("shared/out").into(), None);
        check(at("shared/other").into(), None);
        // It leads to another folder in the same one.
        fs::write(at("shared/inner/file"), "text").expect("a file");
        check(at("shared/own/out").into(), None);
        check(at("shared/inner/file").into(), Some("shared/inner/file"));
        // What a program declares by a link limits nothing.
        check(at("secret").into(), Some("secret"));
        check(at("shared/below_other").into(), None);
        check(at("states/a/in").into(), Some("states/a/own"));
        check(at("states/a/out").into(), None);
        check(GrantedPath::inside(at("plain"), at("shared")), None);
        check(GrantedPath::inside(at("plain"), at("secret")), Some("secret"));
        check(GrantedPath::below(at("shared/own"), vec![at("shared/in")]), Some("shared/own"));
        // What would limit it leads out itself.
        check(GrantedPath::below(at("shared/out"), vec![at("shared/out")]), None);
        check(GrantedPath::below(at("shared/own"), vec![at("none")]), None);
        for (name, expected) in [
            ("shared/own", true),
            ("through", true),
            ("shared/new/folder", true),
            ("shared", false),
            ("secret/new", false),
        ] {
            assert_eq!(shared.can_replace(&at(name)), expected, "{name}");
        }
    }
}
