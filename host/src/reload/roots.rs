//! The plugin directories as the watch sees them: which are there, whether they are still the
//! same, and whether the system tells of them.

use std::path::{Path, PathBuf};

use super::fs_watcher::FsWatcher;
use super::signature::{Identity, identity};

pub(super) struct Roots {
    roots: Vec<Root>,
    bell: Option<FsWatcher>,
}

struct Root {
    dir: PathBuf,
    /// What stood there when it was watched.
    identity: Option<Identity>,
    is_watched: bool,
}

impl Roots {
    /// Without a bell nothing is told, and everything is to be looked at.
    pub(super) fn new(dirs: Vec<PathBuf>, bell: Option<FsWatcher>) -> Self {
        let root = |dir| Root { dir, identity: None, is_watched: false };
        Self { roots: dirs.into_iter().map(root).collect(), bell }
    }

    /// Watches all that are there, again where it was done before: folders may be new in them.
    /// Answers with those that are there.
    pub(super) fn watch(&mut self) -> Vec<PathBuf> {
        for root in &mut self.roots {
            let there = identity(&root.dir);
            if let Some(bell) = &mut self.bell {
                if root.is_watched && there != root.identity {
                    bell.unwatch(&root.dir);
                }
                root.is_watched = there.is_some() && bell.watch(&root.dir);
            }
            root.identity = there;
        }
        let there = self.roots.iter().filter(|root| root.identity.is_some());
        there.map(|root| root.dir.clone()).collect()
    }

    /// Whether something else stands there than what was watched.
    pub(super) fn changed(&self) -> bool {
        self.roots.iter().any(|root| identity(&root.dir) != root.identity)
    }

    /// Whether there is something that the system does not tell of.
    pub(super) fn is_unwatched(&self) -> bool {
        self.roots.iter().any(|root| root.identity.is_some() && !root.is_watched)
    }

    /// Whether a directory in which `folder` lies is there at this moment.
    pub(super) fn hold(&self, folder: &Path) -> bool {
        let mut above = self.roots.iter().filter(|root| folder.starts_with(&root.dir));
        above.any(|root| identity(&root.dir).is_some())
    }

    /// Stops watching.
    pub(super) fn stop(&mut self) {
        if let Some(bell) = self.bell.take() {
            bell.stop();
        }
    }
}
