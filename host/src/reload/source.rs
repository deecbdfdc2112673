//! Where the code of a plugin comes from.

use std::fmt;
use std::sync::Arc;

use hotbay_plugin::{Config, PluginError};

use crate::artifact::digest::Artifact;
use crate::boundary::{Image, Instance, Root};
use crate::generation::CallPolicy;
use crate::manifest::Kind;
#[cfg(unix)]
use crate::supervisor::Program;

/// Where the code of a plugin comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A library in the candidate's folder.
    Library,
    /// The library in the candidate's folder, read already.
    Read(Box<Artifact>),
    /// A type of this program.
    Type(Root),
    /// A value of this program.
    Value(Constructor),
    /// A library that is mapped already, and what the calls of its generation went by.
    Mapped { image: Arc<Image>, root: Root, keep: Option<String>, terms: Arc<CallPolicy> },
    /// A program that ran already, and what the calls of its generation went by.
    #[cfg(unix)]
    Again { program: Arc<Program>, terms: Arc<CallPolicy> },
}

impl Source {
    /// What it is, where that does not follow from the manifest.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            #[cfg(unix)]
            Self::Again { .. } => Some(Kind::Process),
            _ => None,
        }
    }
}

/// Constructs an instance of this program from its config.
pub(crate) struct Constructor(
    pub(crate) Box<dyn FnOnce(&Config) -> Result<Instance, PluginError> + Send>,
);

impl fmt::Debug for Constructor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constructor").finish_non_exhaustive()
    }
}
