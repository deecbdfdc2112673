//! Private copies on systems where dependencies are not staged: only the library itself is
//! copied.

use super::candidate::Candidate;
use crate::artifact::digest::Artifact;
use crate::artifact::stage::{Staged, StagingArea};
use crate::error::{Error, ErrorKind, LoadStep};

/// Writes a private copy of a library.
pub(super) fn stage(
    area: &StagingArea,
    candidate: &Candidate,
    artifact: &Artifact,
) -> Result<Staged, Error> {
    area.stage(artifact, candidate.manifest.name().as_str())
        .map_err(|error| candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error))
}
