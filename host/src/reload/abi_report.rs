//! Opens a library only for abi_stable's full report about it.

use hotbay_manifest::Kind;

use super::candidate::Candidate;
use super::dependencies::stage;
use super::survey::read_artifact;
use super::{Rules, survey::check_library};
use crate::artifact::stage::StagingArea;
use crate::boundary::{Image, Root};
use crate::error::boundary::BoundaryError;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::unload::{WaitForThreads, close};
use std::path::Path;
use std::sync::Arc;

/// Opens the library of `folder` and compares its root module with the host's.
///
/// Returns the full report of the differences, or `None` if there are none. Runs the library's
/// initializers in this process.
pub(crate) fn abi_report(folder: &Path, rules: &Rules) -> Result<Option<String>, Error> {
    let candidate = Candidate::read(folder, rules)?;
    if candidate.kind() != Kind::Library {
        return Ok(None);
    }
    let Some(artifact) = read_artifact(&candidate, rules)? else {
        return Ok(None);
    };
    check_library(&candidate, &artifact)?;
    let failed = |step| candidate.failed(step, ErrorKind::StartFailed);
    let area = StagingArea::new(None, false);
    let staged = stage(&area, &candidate, &artifact)?;
    let compare = move || -> Result<Option<String>, BoundaryError> {
        let image = Arc::new(Image::open(staged)?);
        let root = Root::of(&image);
        let report = match &root {
            Ok(_) => None,
            Err(error) => Some(error.report().map_or_else(|| error.to_string(), str::to_owned)),
        };
        // A library that stays mapped is harmless: this process was started for the report.
        let _ = close(image, root.ok(), None, WaitForThreads::Briefly);
        Ok(report)
    };
    let thread = std::thread::spawn(compare);
    let compared = thread.join().map_err(|_| failed(LoadStep::Open))?;
    compared.map_err(|error| failed(LoadStep::Open).caused_by(error))
}
