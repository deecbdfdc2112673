//! The hints of errors that are causes of others.

use std::error::Error as StdError;

use hotbay_manifest::{ApiMismatch, ManifestError, SchemaError, StampMismatch, Unstartable};

use super::Error;
use super::artifact::ArtifactError;
use super::boundary::BoundaryError;
use super::probe::ProbeError;

/// Returns the hint of an error, if it is one of this crate's and has one.
pub(super) fn of(error: &(dyn StdError + Send + Sync + 'static)) -> Option<String> {
    macro_rules! first_of {
        ($($type:ty),*) => {
            $(if let Some(error) = error.downcast_ref::<$type>() {
                return error.hint();
            })*
        };
    }
    first_of!(
        ArtifactError,
        BoundaryError,
        ProbeError,
        ManifestError,
        ApiMismatch,
        StampMismatch,
        Unstartable,
        SchemaError
    );
    #[cfg(all(unix, feature = "process"))]
    if let Some(error) = error.downcast_ref::<hotbay_process::Error>() {
        return error.hint().map(str::to_owned);
    }
    #[cfg(all(unix, feature = "process"))]
    if let Some(error) = error.downcast_ref::<hotbay_process::Diagnosis>() {
        return error.hint.clone();
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.hint().map(str::to_owned);
    }
    error.downcast_ref::<Box<ManifestError>>().and_then(|error| error.hint())
}
