//! What a database does for the store, which has checked all input.

use std::borrow::Cow;
use std::fmt;

use storage_contract::{Entry, StoreError, StoreErrorKind};

/// A database.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    fn load(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// Returns the keys of a range, in the order of their bytes.
    fn list(&self, range: KeyRange<'_>) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Makes all changes or none, and returns the revision of each one: 0 for a removal. The first
    /// one that cannot be made decides the error.
    fn change(&self, changes: Vec<Change<'_>>) -> Result<Vec<u64>, StoreError>;

    /// Checks that the database answers.
    fn check(&self) -> Result<(), StoreError>;

    /// Closes the database until the next call, if another build must not have it open meanwhile.
    fn close(&self) {}
}

/// Up to `max` keys from `from` on and below `end`, which come after `after`.
#[derive(Debug)]
pub(crate) struct KeyRange<'a> {
    pub(crate) from: &'a [u8],
    pub(crate) end: Option<Vec<u8>>,
    pub(crate) after: &'a [u8],
    pub(crate) max: u32,
}

/// A change of a value that must have the expected revision, if there is one.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    Save { key: Cow<'a, [u8]>, value: Cow<'a, [u8]>, expected: Option<u64> },
    Delete { key: Cow<'a, [u8]>, expected: Option<u64> },
}

impl Change<'_> {
    /// Returns it for another thread. What it owns is not copied.
    pub(crate) fn into_owned(self) -> Change<'static> {
        let own = |bytes: Cow<'_, [u8]>| Cow::Owned(bytes.into_owned());
        match self {
            Self::Save { key, value, expected } => {
                Change::Save { key: own(key), value: own(value), expected }
            }
            Self::Delete { key, expected } => Change::Delete { key: own(key), expected },
        }
    }
}

/// Returns a revision as the databases store it: those above its range were never given to a value.
pub(crate) fn stored_revision(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// Decides a removal by the revision that was found and the one that was expected. Returns whether
/// there is a value to remove.
pub(crate) fn check_removal(found: Option<i64>, expected: Option<u64>) -> Result<bool, StoreError> {
    match (found, expected) {
        // It was expected not to exist.
        (None, Some(0)) => Ok(false),
        (None, None | Some(1..)) => Err(not_found()),
        (Some(found), Some(expected)) if found as u64 != expected => Err(conflict()),
        (Some(_), _) => Ok(true),
    }
}

pub(crate) fn not_found() -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, "no value has this key")
}

pub(crate) fn conflict() -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, "the value has another revision than expected")
}

/// Returns the error of a database with tables that this plugin did not create.
pub(crate) fn foreign_database() -> StoreError {
    StoreError::new(StoreErrorKind::Failed, "the database belongs to another application")
}

/// Returns the error of a database whose tables this build does not know.
pub(crate) fn newer_schema(version: i32, newest: usize) -> StoreError {
    let message = format!(
        "the database has version {version}; this build of the plugin knows versions up to {newest}"
    );
    StoreError::new(StoreErrorKind::Failed, message)
}
