//! Where the code of a plugin comes from.

use std::fmt;
use std::sync::Arc;

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
    Value(Made),
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

/// Makes a value of this program into an instance, when it is wanted.
pub(crate) struct Made(pub(crate) Box<dyn FnOnce() -> Instance + Send>);

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}
