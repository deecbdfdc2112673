//! The content of a folder that decides whether a plugin starts. It distinguishes the same broken
//! build from another one.

use std::path::Path;

use super::Rules;
use super::candidate::Candidate;
use super::survey::read_artifact;
use crate::artifact::digest::Artifact;
use crate::error::Error;

/// The text of a manifest, and the digests of its schemas and library, or why one cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    manifest: String,
    schemas: Vec<Option<[u8; 32]>>,
    library: Option<Result<[u8; 32], String>>,
}

impl Content {
    /// Reads the current content of `folder`.
    pub(crate) fn of(folder: &Path, rules: &Rules) -> Self {
        let mut content = Self::default();
        let candidate = Candidate::read(folder, rules);
        content.set_manifest(&candidate, rules);
        if let Ok(candidate) = candidate {
            content.set_artifact(&read_artifact(&candidate, rules));
        }
        content
    }

    /// Records a manifest and its schema files.
    pub(crate) fn set_manifest(&mut self, read: &Result<Candidate, Error>, rules: &Rules) {
        let schemas = |candidate: &Candidate| candidate.schema_digests(rules);
        self.schemas = read.as_ref().map(schemas).unwrap_or_default();
        self.manifest = match read {
            Ok(candidate) => candidate.text.clone(),
            Err(error) => error.full_message(),
        };
    }

    /// Records a library.
    pub(crate) fn set_artifact(&mut self, read: &Result<Option<Artifact>, Error>) {
        self.library = match read {
            Ok(library) => library.as_ref().map(|library| Ok(library.content())),
            // The cause alone: the error itself names the serving generation.
            Err(error) => Some(Err(causes(error))),
        };
    }
}

fn causes(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map(ToString::to_string).unwrap_or_default()
}
