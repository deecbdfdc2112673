//! Which paths of a policy grant nothing, and why.

use std::path::PathBuf;
use std::{fmt, io};

use crate::lookup::{Lookup, Walk};
use crate::{GrantedPath, Policy, SharedFolders};

/// A file or folder that a program must not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protected {
    /// Absolute. It does not have to exist.
    pub path: PathBuf,
    /// What it is, in a few words.
    pub name: &'static str,
    /// Whether the content of this folder must not be changed either.
    pub with_content: bool,
}

/// Why a path grants nothing.
#[derive(Debug)]
pub enum PathError {
    /// It cannot be resolved.
    Io(io::Error),
    /// It leads to `target`, outside of what limits it: `folders`, which is empty if programs can
    /// replace all that could limit it.
    LeadsOut {
        /// By a path without links.
        target: PathBuf,
        /// By paths without links.
        folders: Vec<PathBuf>,
    },
    /// By it, the program could change `protected`, or its content.
    Protected {
        /// The file or folder.
        protected: Protected,
        /// What the path does: `is`, `contains` or `is in`.
        relation: &'static str,
    },
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::LeadsOut { target, folders } => {
                write!(f, "leads to `{}`", target.display())?;
                let folders: Vec<_> =
                    folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
                match &folders[..] {
                    [] => write!(f, ", by a path that programs can change"),
                    _ => write!(f, ", outside of {}", folders.join(" and ")),
                }
            }
            Self::Protected { protected: Protected { path, name, .. }, relation } => {
                write!(f, "{relation} `{}` ({name}), which it must not change", path.display())
            }
        }
    }
}

/// A path of a policy that exists, but grants nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OmittedPath {
    /// The path.
    pub path: PathBuf,
    /// The reason: a clause in which "it" is the path.
    pub reason: String,
}

/// Checks paths of a policy, as the disk is when it is created.
#[derive(Debug)]
pub struct PathChecks {
    changeable: SharedFolders,
    /// With what was found of it.
    protected: Vec<(Protected, Walk)>,
    own: Vec<Lookup>,
}

impl PathChecks {
    /// Prepares checks of the paths of this policy. Accesses the disk.
    pub fn new(policy: &Policy) -> Self {
        let existing = |it: &Protected| Some((it.clone(), Lookup::walk(&it.path).ok()?));
        Self {
            changeable: policy.changeable(),
            protected: policy.protected.iter().filter_map(existing).collect(),
            own: policy.own.iter().filter_map(|path| Lookup::of(path).ok()).collect(),
        }
    }

    /// Fails if a path of the policy grants nothing. `is_write` if it is one of those that can be changed.
    /// Accesses the disk.
    ///
    /// # Errors
    ///
    /// The reason; [`PathError::Io`] with `NotFound` if it does not exist.
    pub fn check(&self, granted: &GrantedPath, is_write: bool) -> Result<(), PathError> {
        self.lookup(granted, is_write).map(drop)
    }

    pub(crate) fn lookup(
        &self,
        granted: &GrantedPath,
        is_write: bool,
    ) -> Result<Lookup, PathError> {
        let found = granted.lookup(&self.changeable)?;
        if !is_write {
            return Ok(found);
        }
        for (protected, place) in &self.protected {
            let relation = match place {
                Walk::Found(place) if found.id == place.id => "is",
                Walk::Found(place) | Walk::Missing(place, _) if found.contains(place) => "contains",
                Walk::Found(place) if protected.with_content && self.is_inside(&found, place) => {
                    "is in"
                }
                _ => continue,
            };
            return Err(PathError::Protected { protected: protected.clone(), relation });
        }
        Ok(found)
    }

    /// Returns whether a path leads into a protected folder, and not into an own folder in it.
    fn is_inside(&self, found: &Lookup, protected: &Lookup) -> bool {
        let is_own = |own: &Lookup| protected.contains(own) && own.contains(found);
        protected.contains(found) && !self.own.iter().any(is_own)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn protected_folders_cannot_be_written_with_or_without_their_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it exists");
        for name in ["plugins/own/data", "plugins/own/nested/other", "plugins/other", "private/new"]
        {
            fs::create_dir_all(root.join(name)).expect("folders");
        }
        let protected = |name: &str, with_content| Protected {
            path: root.join(name),
            name: "a test",
            with_content,
        };
        let policy = Policy {
            protected: vec![
                protected("plugins/own/plugin.json", false),
                protected("plugins", true),
                protected("private", false),
                protected("plugins/own/nested", true),
                protected("missing/folder", true),
            ],
            own: vec![root.join("plugins/own")],
            ..Policy::default()
        };
        let checks = PathChecks::new(&policy);
        for (name, expected) in [
            ("plugins/own/data", None),
            ("private/new", None),
            ("plugins/other", Some("is in")),
            ("plugins/own/nested/other", Some("is in")),
            ("plugins", Some("contains")),
            ("private", Some("is ")),
            ("plugins/own", Some("contains")),
            ("", Some("contains")),
        ] {
            let granted = GrantedPath::from(root.join(name));
            checks.check(&granted, false).expect("it can be read");
            let error = checks.check(&granted, true).err().map(|error| error.to_string());
            match (&error, expected) {
                (Some(error), Some(expected)) => assert!(error.starts_with(expected), "{error}"),
                (error, expected) => assert_eq!(error.as_deref(), expected, "{name}"),
            }
        }
    }
}
