//! The sources of a plugin's code.

use std::fmt;
use std::sync::Arc;

use hotbay_manifest::Kind;
use hotbay_plugin::{Config, PluginError};

use crate::artifact::digest::Artifact;
use crate::boundary::{Image, Instance, Root};
use crate::generation::CallPolicy;
#[cfg(all(unix, feature = "process"))]
use hotbay_process::Program;

/// The source of a plugin's code.
#[derive(Debug)]
pub(crate) enum Source {
    /// A library in the candidate's folder.
    Library,
    /// The library or program in the candidate's folder, already read.
    Read(Box<Artifact>),
    /// A type of this program.
    Type(Root),
    /// A value of this program.
    Value(Constructor),
    /// A library that is already mapped, with the call policy of its generation.
    Mapped { image: Arc<Image>, root: Root, retain_reason: Option<String>, policy: Arc<CallPolicy> },
    /// A program that already ran, with the call policy of its generation.
    #[cfg(all(unix, feature = "process"))]
    Restart { program: Arc<Program>, policy: Arc<CallPolicy> },
}

impl Source {
    /// Returns the kind of plugin if it does not follow from the manifest.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            #[cfg(all(unix, feature = "process"))]
            Self::Restart { .. } => Some(Kind::Process),
            _ => None,
        }
    }
}

/// Constructs an instance of this program from its config.
pub(crate) struct Constructor(pub(crate) Box<ConstructorFn>);

type ConstructorFn = dyn FnOnce(&Config) -> Result<Instance, PluginError> + Send;

impl fmt::Debug for Constructor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constructor").finish_non_exhaustive()
    }
}
