//! The plugin directories as the watch sees them: which exist, whether they were replaced, and
//! whether the system reports their events.

use std::collections::{BTreeSet, HashMap};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hotbay_manifest::{ConfigSchema, MAX_MANIFEST_BYTES, Manifest, SIGNATURE, SIGNED_FILES};

use super::fs_watcher::FsWatcher;
use crate::artifact::digest::Artifact;
use crate::artifact::{discover, locate};

pub(super) struct Roots {
    roots: Vec<Root>,
    watcher: Option<FsWatcher>,
}

struct Root {
    dir: PathBuf,
    /// Its identity when it was watched.
    identity: Option<Identity>,
    is_watched: bool,
    /// Whether it is the folder of an instance, not a directory of plugins.
    is_instance: bool,
}

impl Root {
    fn new(dir: PathBuf, is_instance: bool) -> Self {
        Self { dir, identity: None, is_watched: false, is_instance }
    }

    /// Returns whether a plugin of it that is missing was removed, and not the whole directory.
    fn is_reachable(&self) -> bool {
        let dir = if self.is_instance { self.dir.parent().unwrap_or(&self.dir) } else { &self.dir };
        identity(dir).is_some()
    }
}

impl Roots {
    /// Creates the list of directories. Without a watcher, everything has to be polled.
    pub(super) fn new(dirs: Vec<PathBuf>, watcher: Option<FsWatcher>) -> Self {
        Self { roots: dirs.into_iter().map(|dir| Root::new(dir, false)).collect(), watcher }
    }

    /// Sets the folders of instances, of which those outside the directories are watched on their own.
    pub(super) fn set_instances(&mut self, folders: &BTreeSet<PathBuf>) {
        let removed =
            self.roots.extract_if(.., |root| root.is_instance && !folders.contains(&root.dir));
        let removed: Vec<_> = removed.filter(|root| root.is_watched).collect();
        if let Some(watcher) = &mut self.watcher
            && !removed.is_empty()
        {
            for root in removed {
                watcher.unwatch(&root.dir);
            }
            // That also ends the watch of all that is below, or is the same under another name.
            for root in &mut self.roots {
                root.is_watched = false;
            }
        }
        for folder in folders {
            if !self.roots.iter().any(|root| folder.starts_with(&root.dir)) {
                self.roots.push(Root::new(folder.clone(), true));
            }
        }
    }

    /// Watches all directories that exist, including those watched before: they may contain new
    /// folders. Returns those whose plugins can be scanned; the folder of a removed instance is one.
    pub(super) fn watch(&mut self) -> Vec<PathBuf> {
        for root in &mut self.roots {
            let found = identity(&root.dir);
            if let Some(watcher) = &mut self.watcher {
                if root.is_watched && found != root.identity {
                    watcher.unwatch(&root.dir);
                }
                root.is_watched = found.is_some() && watcher.watch(&root.dir);
            }
            root.identity = found;
        }
        let found = self.roots.iter().filter(|root| root.is_reachable());
        found.map(|root| root.dir.clone()).collect()
    }

    /// Returns whether a directory was replaced, appeared or disappeared since it was watched.
    pub(super) fn changed(&self) -> bool {
        self.roots.iter().any(|root| identity(&root.dir) != root.identity)
    }

    /// Returns whether the system does not report the events of some directory.
    pub(super) fn is_unwatched(&self) -> bool {
        self.roots.iter().any(|root| root.identity.is_some() && !root.is_watched)
    }

    /// Returns whether a directory that contains `folder` exists now.
    pub(super) fn contain(&self, folder: &Path) -> bool {
        self.roots.iter().any(|root| folder.starts_with(&root.dir) && root.is_reachable())
    }

    /// Stops watching.
    pub(super) fn stop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.stop();
        }
    }
}

/// Maximum depth below a plugin's folder at which libraries are searched.
const MAX_DEPTH: usize = 2;
/// Maximum number of files and folders of a plugin in one signature.
const MAX_ENTRIES: usize = 1024;

/// What the watch compares of a folder: its manifest, the files that the manifest names, and those of
/// the plugin's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    folder: Option<Identity>,
    manifest: Option<FileSignature>,
    named: Vec<Option<FileSignature>>,
    /// The files that the library may link.
    beside: Vec<(PathBuf, FileSignature)>,
}

/// The file at a path, and its owner and mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    mode: u32,
    owner: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FileSignature {
    identity: Identity,
    length: u64,
    modified: Option<SystemTime>,
}

/// Computes signatures; remembers which files the manifests name.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    named: HashMap<PathBuf, Named>,
}

#[derive(Debug, Default)]
struct Named {
    manifest: Option<FileSignature>,
    files: Vec<PathBuf>,
    has_library: bool,
}

impl Signatures {
    pub(crate) fn of(&mut self, folder: &Path) -> Signature {
        let manifest = file(&folder.join(discover::MANIFEST));
        if manifest.is_none() {
            self.named.remove(folder);
            return Signature {
                folder: identity(folder),
                manifest,
                named: Vec::new(),
                beside: Vec::new(),
            };
        }
        let named = self.named.entry(folder.to_owned()).or_default();
        if named.manifest != manifest {
            named.manifest.clone_from(&manifest);
            // If it cannot be read, the names of the previous one stay.
            if let Some((files, has_library)) = files_of(folder) {
                named.files = files;
                named.has_library = has_library;
            }
        }
        let files = named.files.iter().map(|name| file(name)).collect();
        let mut beside = Vec::new();
        if named.has_library {
            libraries_in(folder, MAX_DEPTH, &mut MAX_ENTRIES.clone(), &mut beside);
            beside.sort_by(|one, other| one.0.cmp(&other.0));
        }
        Signature { folder: identity(folder), manifest, named: files, beside }
    }

    /// Returns whether a path is the manifest or a file that it names.
    pub(crate) fn is_relevant(&self, folder: &Path, path: &Path) -> bool {
        path.file_name().is_some_and(|name| name == discover::MANIFEST)
            || self.named.get(folder).is_some_and(|named| named.files.iter().any(|one| one == path))
    }
}

/// Collects the files in `folder` that a library may link, by name.
fn libraries_in(
    folder: &Path,
    depth: usize,
    entries_left: &mut usize,
    found: &mut Vec<(PathBuf, FileSignature)>,
) {
    if !cfg!(target_os = "linux") {
        return;
    }
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        if *entries_left == 0 {
            return;
        }
        *entries_left -= 1;
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 {
                libraries_in(&path, depth - 1, entries_left, found);
            }
            continue;
        }
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".so") || name.contains(".so.") {
            found.extend(file(&path).map(|signature| (path, signature)));
        }
    }
}

fn files_of(folder: &Path) -> Option<(Vec<PathBuf>, bool)> {
    let path = folder.join(discover::MANIFEST);
    let artifact = Artifact::read(&path, MAX_MANIFEST_BYTES as u64).ok()?;
    let manifest = Manifest::parse(std::str::from_utf8(artifact.bytes()).ok()?, &path).ok()?;
    let has_library = manifest.library_stem().is_some();
    let library = manifest.library_stem().map(|stem| locate::library_file_name(&stem));
    let schemas = manifest.schemas().into_iter().filter_map(|(_, schema)| match schema {
        Some(ConfigSchema::File(name)) => Some(name.clone()),
        _ => None,
    });
    let program = manifest.command().first().cloned();
    // The signature is written last, so a change of it is one of the other files too.
    let signature = [SIGNED_FILES, SIGNATURE].map(str::to_owned);
    let names = library.into_iter().chain(schemas).chain(program).chain(signature);
    Some((names.map(|name| folder.join(name)).collect(), has_library))
}

/// Returns the identity of the file at a path, following links; `None` if it does not exist.
pub(crate) fn identity(path: &Path) -> Option<Identity> {
    path.metadata().ok().as_ref().map(identity_of)
}

fn file(path: &Path) -> Option<FileSignature> {
    let metadata = path.metadata().ok()?;
    Some(FileSignature {
        identity: identity_of(&metadata),
        length: metadata.len(),
        modified: metadata.modified().ok(),
    })
}

#[cfg(unix)]
fn identity_of(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        mode: metadata.mode(),
        owner: metadata.uid(),
    }
}

/// Uses the creation time in place of the inode.
#[cfg(not(unix))]
fn identity_of(metadata: &Metadata) -> Identity {
    let created = metadata.created().ok();
    let created = created.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let inode = created.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    Identity { device: 0, inode, mode: u32::from(metadata.permissions().readonly()), owner: 0 }
}
