//! The plugin directories as the watch sees them: which exist, whether they were replaced, and
//! whether the system reports their events.

use std::path::{Path, PathBuf};

use super::fs_watcher::FsWatcher;
use super::signature::{Identity, identity};

pub(super) struct Roots {
    roots: Vec<Root>,
    watcher: Option<FsWatcher>,
}

struct Root {
    dir: PathBuf,
    /// Its identity when it was watched.
    identity: Option<Identity>,
    is_watched: bool,
}

impl Roots {
    /// Creates the list of directories. Without a watcher, everything has to be polled.
    pub(super) fn new(dirs: Vec<PathBuf>, watcher: Option<FsWatcher>) -> Self {
        let root = |dir| Root { dir, identity: None, is_watched: false };
        Self { roots: dirs.into_iter().map(root).collect(), watcher }
    }

    /// Watches all directories that exist, including those watched before: they may contain new
    /// folders. Returns those that exist.
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
        let found = self.roots.iter().filter(|root| root.identity.is_some());
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
        let mut roots = self.roots.iter().filter(|root| folder.starts_with(&root.dir));
        roots.any(|root| identity(&root.dir).is_some())
    }

    /// Stops watching.
    pub(super) fn stop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.stop();
        }
    }
}
