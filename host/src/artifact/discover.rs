//! Searches a folder for the folders of plugins. Reads no manifest, and trusts nothing that it
//! finds.

use std::collections::{HashSet, VecDeque};
use std::env::consts::DLL_EXTENSION;
use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use super::private_folder;
use super::trust::{self, Rules};
use crate::error::artifact::ArtifactError;
use crate::error::{Error, ErrorKind};

/// The name of the file that marks the folder of a plugin.
pub(crate) const MANIFEST: &str = "plugin.json";

/// Maximum depth of a plugin's folder below the root.
pub(crate) const MAX_DEPTH: usize = 8;

/// Maximum number of files and folders of one search.
pub(crate) const MAX_ENTRIES: usize = 100_000;

/// The limits of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Folders below the root.
    pub(crate) max_depth: usize,
    /// Files and folders in all.
    pub(crate) max_entries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: MAX_DEPTH, max_entries: MAX_ENTRIES }
    }
}

/// The result of a search.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Folders that hold a `plugin.json`, sorted; each starts with the root as given.
    pub(crate) folders: Vec<PathBuf>,
    /// Folders that hold a shared library but no `plugin.json`, in the order of the search.
    pub(crate) without_manifest: Vec<PathBuf>,
    /// The errors of folders that could not be searched.
    pub(crate) problems: Vec<ArtifactError>,
}

/// Finds every folder with a `plugin.json` in and below `root`.
///
/// Skips hidden folders, `target`, `node_modules` and private folders of hosts, and does not search a
/// plugin's folder.
/// Follows links to folders if they stay inside `root`, each folder once.
pub(crate) fn find(root: &Path, limits: Limits) -> Found {
    let mut search = Search { limits, ..Search::default() };
    let canonical = match root.canonicalize() {
        Ok(canonical) if canonical.is_dir() => canonical,
        Ok(_) => {
            search.found.problems.push(ArtifactError::RootNotAFolder { path: root.to_owned() });
            return search.found;
        }
        Err(source) => {
            search.read_failed(root, source);
            return search.found;
        }
    };
    search.root.clone_from(&canonical);
    search.folders.push_back(Folder { path: root.to_owned(), canonical, depth: 0 });
    // Links come last, so that a folder is found under its own name if it has one.
    loop {
        if search.entries > limits.max_entries {
            let max_entries = limits.max_entries;
            let problem = ArtifactError::TooManyEntries { root: root.to_owned(), max_entries };
            search.found.problems.push(problem);
            break;
        }
        if let Some(folder) = search.folders.pop_front() {
            search.enter(folder);
        } else if let Some(link) = search.links.pop_front() {
            search.follow(link);
        } else {
            break;
        }
    }
    search.found.folders.sort();
    search.found
}

/// A folder, or a link to one, that is not searched yet.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// The canonical path; of a link, that of its parent joined with its name.
    canonical: PathBuf,
    depth: usize,
}

#[derive(Debug, Default)]
struct Search {
    limits: Limits,
    root: PathBuf,
    folders: VecDeque<Folder>,
    links: VecDeque<Folder>,
    visited: HashSet<PathBuf>,
    entries: usize,
    reported_too_deep: bool,
    found: Found,
}

impl Search {
    fn enter(&mut self, folder: Folder) {
        // A program can write to the folder of its launch.
        let below = folder.canonical.strip_prefix(&self.root).unwrap_or(&folder.canonical);
        if below.iter().filter_map(OsStr::to_str).any(private_folder::is_of_host) {
            return;
        }
        if !self.visited.insert(folder.canonical.clone()) {
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
        if entries.iter().any(is_shared_library) {
            self.found.without_manifest.push(folder.path.clone());
        }
        for entry in &entries {
            self.record(&folder, entry);
        }
    }

    /// Returns at most one entry more than the limit allows, so that an excess is noticed.
    fn entries_of(&mut self, folder: &Path) -> std::io::Result<Vec<DirEntry>> {
        let left = (self.limits.max_entries + 1).saturating_sub(self.entries);
        let entries = fs::read_dir(folder)?.take(left).collect::<Result<Vec<_>, _>>()?;
        self.entries += entries.len();
        Ok(entries)
    }

    fn record(&mut self, parent: &Folder, entry: &DirEntry) {
        let Ok(kind) = entry.file_type() else { return };
        let name = entry.file_name();
        if !(kind.is_dir() || kind.is_symlink()) || is_skipped(&name) {
            return;
        }
        if parent.depth >= self.limits.max_depth {
            if !std::mem::replace(&mut self.reported_too_deep, true) {
                let (path, max_depth) = (parent.path.clone(), self.limits.max_depth);
                self.found.problems.push(ArtifactError::TooDeep { path, max_depth });
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

fn is_shared_library(entry: &DirEntry) -> bool {
    let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
    let name = entry.file_name();
    is_file && Path::new(&name).extension().is_some_and(|extension| extension == DLL_EXTENSION)
}

/// Returns whether folders of this name are not searched.
pub(crate) fn is_skipped(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || name == "target" || name == "node_modules"
}

/// The result of [`search`].
#[derive(Debug, Default)]
pub(crate) struct FolderSearch {
    /// The folders with a manifest.
    pub(crate) folders: Vec<PathBuf>,
    /// The folders with a shared library and no manifest.
    pub(crate) without_manifest: Vec<PathBuf>,
    /// The problems of the search.
    pub(crate) problems: Vec<Error>,
}

/// Finds every folder with a manifest below `roots`, and the problems of the search.
pub(crate) fn folders(roots: &[PathBuf], rules: &Rules) -> (Vec<PathBuf>, Vec<Error>) {
    let found = search(roots, rules);
    (found.folders, found.problems)
}

/// Finds every folder with a manifest below `roots`.
///
/// Skips a folder if other users can write to one above it: they could replace it.
pub(crate) fn search(roots: &[PathBuf], rules: &Rules) -> FolderSearch {
    let FolderSearch { mut folders, mut without_manifest, mut problems } = FolderSearch::default();
    for root in roots {
        let skipped =
            |problem| Error::new(ErrorKind::Integrity, "a folder was skipped").caused_by(problem);
        // The search reports a root that does not exist.
        if let Err(problem) = trust::check_above(root, rules.trust())
            && !matches!(problem, ArtifactError::Read { .. })
        {
            problems.push(skipped(problem));
            continue;
        }
        let found = find(root, Limits::default());
        problems.extend(found.problems.into_iter().map(skipped));
        without_manifest.extend(found.without_manifest);
        for folder in found.folders {
            let parent = match folder.parent().unwrap_or(root) {
                // The parent of a bare name, and of `.`.
                parent if parent.as_os_str().is_empty() => Path::new("."),
                parent => parent,
            };
            match trust::check_chain(root, parent, rules.trust()) {
                Ok(()) => folders.push(folder),
                Err(problem) => problems.push(skipped(problem)),
            }
        }
    }
    // Roots may be nested.
    let mut unique = std::collections::HashSet::new();
    folders.retain(|folder| unique.insert(folder.clone()));
    without_manifest.retain(|folder| unique.insert(folder.clone()));
    FolderSearch { folders, without_manifest, problems }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates the given files (with their folders) and links (`link -> target`) in a new root.
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
        let messages: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
        assert_eq!(messages.len(), problems.len(), "{messages:?}");
        for (message, expected) in messages.iter().zip(problems) {
            assert!(message.contains(expected), "`{expected}` in: {message}");
        }
    }

    #[test]
    fn library_without_manifest_is_reported() {
        let library = format!("x.{DLL_EXTENSION}");
        let plugin = ["a/plugin.json".to_owned(), format!("a/{library}")];
        let [bare, hidden, nested] = ["b", ".c", "a/d"].map(|folder| format!("{folder}/{library}"));
        let files = [&plugin[0], &plugin[1], &bare, &hidden, &nested].map(String::as_str);
        let root = tree(&files);
        let found = find(root.path(), Limits::default());
        assert_eq!(found.without_manifest, [root.path().join("b")]);
    }

    #[test]
    fn folders_with_manifest_are_found_in_order() {
        let all = Limits::default();
        check(&["b/plugin.json", "a/plugin.json", "c/readme"], all, &["a", "b"], &[]);
        check(&["a/b/c/plugin.json", "a/plugin.txt"], all, &["a/b/c"], &[]);
        check(&["plugin.json", "a/plugin.json"], all, &[""], &[]);
        check(&["a/plugin.json", "a/b/plugin.json"], all, &["a"], &[]);
        check(&["a/plugin.json/plugin.json"], all, &["a/plugin.json"], &[]);
        check(&[".a/plugin.json", "target/x/plugin.json"], all, &[], &[]);
        check(&["node_modules/x/plugin.json", "targets/plugin.json"], all, &["targets"], &[]);
        let of_host = "tmp/hotbay-run-7-0123456789abcdef/tmp/x/plugin.json";
        check(&[of_host, "tmp/hotbay-run-2024/plugin.json"], all, &["tmp/hotbay-run-2024"], &[]);
    }

    #[test]
    fn search_stops_at_its_limits_and_reports_it() {
        let all = Limits::default();
        check(&["1/2/3/4/5/6/7/8/plugin.json"], all, &["1/2/3/4/5/6/7/8"], &[]);
        check(&["1/2/3/4/5/6/7/8/9/plugin.json"], all, &[], &["5/6/7/8` is 8 folders deep"]);
        let few = Limits { max_entries: 2, ..all };
        check(&["a/plugin.json", "b/plugin.json"], few, &["a", "b"], &[]);
        check(&["a/x", "a/y", "a/z"], few, &[], &["more than 2 files"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_inside_root_and_once() {
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
    fn invalid_root_is_named_in_problem() {
        let root = tree(&["file"]);
        for (name, expected) in [("nope", "cannot read"), ("file", "is not a folder")] {
            let found = find(&root.path().join(name), Limits::default());
            let [problem] = &found.problems[..] else { panic!("{found:?}") };
            let message = problem.to_string();
            assert!(message.contains(expected) && message.contains(name), "{message}");
        }
    }
}
