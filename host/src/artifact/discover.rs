//! Walks a folder and finds the folders of plugins in it.
//! Reads no manifest, and trusts nothing that it finds.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use crate::error::artifact::ArtifactError;

/// What marks the folder of a plugin.
pub(crate) const MANIFEST: &str = "plugin.json";

/// How many folders deep below the root a plugin's folder may lie.
pub(crate) const DEPTH_MAX: usize = 8;

/// How many files and folders one walk looks at.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Folders below the root.
    pub(crate) depth_max: usize,
    /// Files and folders in all.
    pub(crate) entries_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth_max: DEPTH_MAX, entries_max: ENTRIES_MAX }
    }
}

/// What a walk came back with.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Folders that hold a `plugin.json`, sorted; each begins with the root as it was given.
    pub(crate) folders: Vec<PathBuf>,
    /// What could not be looked at.
    pub(crate) problems: Vec<ArtifactError>,
}

/// Finds every folder with a `plugin.json` in and below `root`.
///
/// Skips hidden folders, `target` and `node_modules`, and does not look into a plugin's folder.
/// Follows links to folders as long as they stay inside `root`, each folder once.
pub(crate) fn find(root: &Path, limits: Limits) -> Found {
    let mut walk = Walk { limits, ..Walk::default() };
    let canonical = match root.canonicalize() {
        Ok(canonical) if canonical.is_dir() => canonical,
        Ok(_) => {
            walk.found.problems.push(ArtifactError::RootNotAFolder { path: root.to_owned() });
            return walk.found;
        }
        Err(source) => {
            walk.read_failed(root, source);
            return walk.found;
        }
    };
    walk.root.clone_from(&canonical);
    walk.folders.push_back(Folder { path: root.to_owned(), canonical, depth: 0 });
    // Links come last, so that a folder is found under its own name when it has one.
    loop {
        if walk.entries > limits.entries_max {
            let entries_max = limits.entries_max;
            let problem = ArtifactError::TooManyEntries { root: root.to_owned(), entries_max };
            walk.found.problems.push(problem);
            break;
        }
        if let Some(folder) = walk.folders.pop_front() {
            walk.enter(folder);
        } else if let Some(link) = walk.links.pop_front() {
            walk.follow(link);
        } else {
            break;
        }
    }
    walk.found.folders.sort();
    walk.found
}

/// A folder, or a link to one, that waits for its turn.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Without links; of a link, the one of its parent joined with its name.
    canonical: PathBuf,
    depth: usize,
}

#[derive(Debug, Default)]
struct Walk {
    limits: Limits,
    root: PathBuf,
    folders: VecDeque<Folder>,
    links: VecDeque<Folder>,
    seen: HashSet<PathBuf>,
    entries: usize,
    told_too_deep: bool,
    found: Found,
}

impl Walk {
    fn enter(&mut self, folder: Folder) {
        if !self.seen.insert(folder.canonical.clone()) {
            return;
        }
        let manifest = folder.path.join(MANIFEST).symlink_metadata();
        if manifest.is_ok_and(|metadata| !metadata.is_dir()) {
            self.found.folders.push(folder.path);
            return;
        }
        let mut entries = match self.entries_of(&folder.path) {
            Ok(entries) => entries,
            Err(source) => return self.read_failed(&folder.path, source),
        };
        entries.sort_by_key(DirEntry::file_name);
        for entry in &entries {
            self.note(&folder, entry);
        }
    }

    /// At most one more than may still be looked at, so that the limit is noticed.
    fn entries_of(&mut self, folder: &Path) -> std::io::Result<Vec<DirEntry>> {
        let left = (self.limits.entries_max + 1).saturating_sub(self.entries);
        let entries = fs::read_dir(folder)?.take(left).collect::<Result<Vec<_>, _>>()?;
        self.entries += entries.len();
        Ok(entries)
    }

    fn note(&mut self, parent: &Folder, entry: &DirEntry) {
        let Ok(kind) = entry.file_type() else { return };
        let name = entry.file_name();
        if !(kind.is_dir() || kind.is_symlink()) || is_skipped(&name) {
            return;
        }
        if parent.depth >= self.limits.depth_max {
            if !std::mem::replace(&mut self.told_too_deep, true) {
                let (path, depth_max) = (parent.path.clone(), self.limits.depth_max);
                self.found.problems.push(ArtifactError::TooDeep { path, depth_max });
            }
            return;
        }
        let child = Folder {
            path: parent.path.join(&name),
            canonical: parent.canonical.join(&name),
            depth: parent.depth + 1,
        };
        let queue = if kind.is_dir() { &mut self.folders } else { &mut self.links };
        queue.push_back(child);
    }

    fn follow(&mut self, link: Folder) {
        let target = match link.path.canonicalize() {
            Ok(target) => target,
            Err(source) => return self.read_failed(&link.path, source),
        };
        if !target.is_dir() {
            return;
        }
        if !target.starts_with(&self.root) {
            let root = self.root.clone();
            self.found.problems.push(ArtifactError::OutsideFolder {
                link: link.path,
                target,
                root,
            });
            return;
        }
        self.folders.push_back(Folder { canonical: target, ..link });
    }

    fn read_failed(&mut self, path: &Path, source: std::io::Error) {
        self.found.problems.push(ArtifactError::Read { path: path.to_owned(), source });
    }
}

fn is_skipped(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "target" || name == "node_modules"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes the given files (with their folders) and links (`link -> target`) in a fresh root.
    fn tree(entries: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for entry in entries {
            let (path, target) = entry.split_once(" -> ").unwrap_or((entry, ""));
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if target.is_empty() {
                fs::write(&path, "{}").unwrap();
            } else {
                #[cfg(unix)]
                std::os::unix::fs::symlink(target, &path).unwrap();
            }
        }
        root
    }

    fn check(entries: &[&str], limits: Limits, folders: &[&str], problems: &[&str]) {
        let root = tree(entries);
        let found = find(root.path(), limits);
        let names = found.folders.iter().map(|folder| {
            folder.strip_prefix(root.path()).unwrap().to_str().unwrap().replace('\\', "/")
        });
        assert_eq!(names.collect::<Vec<_>>(), folders, "{entries:?}");
        let told: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), problems.len(), "{told:?}");
        for (told, wanted) in told.iter().zip(problems) {
            assert!(told.contains(wanted), "`{wanted}` in: {told}");
        }
    }

    #[test]
    fn folders_with_a_manifest_are_found_in_order() {
        let all = Limits::default();
        check(&["b/plugin.json", "a/plugin.json", "c/readme"], all, &["a", "b"], &[]);
        check(&["a/b/c/plugin.json", "a/plugin.txt"], all, &["a/b/c"], &[]);
        check(&["plugin.json", "a/plugin.json"], all, &[""], &[]);
        check(&["a/plugin.json", "a/b/plugin.json"], all, &["a"], &[]);
        check(&["a/plugin.json/plugin.json"], all, &["a/plugin.json"], &[]);
        check(&[".a/plugin.json", "target/x/plugin.json"], all, &[], &[]);
        check(&["node_modules/x/plugin.json", "targets/plugin.json"], all, &["targets"], &[]);
    }

    #[test]
    fn a_walk_ends_at_its_limits_and_says_so() {
        let all = Limits::default();
        check(&["1/2/3/4/5/6/7/8/plugin.json"], all, &["1/2/3/4/5/6/7/8"], &[]);
        check(&["1/2/3/4/5/6/7/8/9/plugin.json"], all, &[], &["5/6/7/8` is 8 folders deep"]);
        let few = Limits { entries_max: 2, ..all };
        check(&["a/plugin.json", "b/plugin.json"], few, &["a", "b"], &[]);
        check(&["a/x", "a/y", "a/z"], few, &[], &["more than 2 files"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_only_inside_the_root_and_once() {
        let all = Limits::default();
        let outside = tree(&["plugin.json"]);
        let leads_out = format!("b -> {}", outside.path().display());
        check(&["a/plugin.json", &leads_out], all, &["a"], &["b` links to"]);
        check(&["a/plugin.json", "b -> a", "c -> .", "a/up -> .."], all, &["a"], &[]);
        check(&[".v2/plugin.json", "now -> .v2"], all, &["now"], &[]);
        check(&["x/loop -> ../x", "x/a/plugin.json"], all, &["x/a"], &[]);
        check(&["gone -> nowhere", "a/plugin.json"], all, &["a"], &["cannot read"]);
        check(&["a/plugin.json", "file -> a/plugin.json"], all, &["a"], &[]);
    }

    #[test]
    fn a_root_that_is_missing_or_a_file_is_named() {
        let root = tree(&["file"]);
        for (name, wanted) in [("nope", "cannot read"), ("file", "is not a folder")] {
            let found = find(&root.path().join(name), Limits::default());
            let [problem] = &found.problems[..] else { panic!("{found:?}") };
            let told = problem.to_string();
            assert!(told.contains(wanted) && told.contains(name), "{told}");
        }
    }
}
