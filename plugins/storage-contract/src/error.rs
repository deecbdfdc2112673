//! The error of a store, as it crosses between plugin and caller.

use std::error::Error;
use std::fmt;

use hotbay_plugin::PluginError;
use hotbay_plugin::contract::{CallError, CallErrorKind};

/// The reason a store failed. The source is the [`CallError`] if the call itself failed.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<CallError>,
}

/// The classes of a [`StoreError`], by how a caller can handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No value has this key.
    NotFound,
    /// The value has another revision than expected.
    Conflict,
    /// A key, a value or a limit is out of range.
    InvalidInput,
    /// The database does not answer in time, or its connection was lost. The same call may succeed
    /// later.
    Unavailable,
    /// The connection was lost or timed out while a change was committed, so it may have been made.
    /// Read the value before the change is repeated, or make it with `expected`.
    OutcomeUnknown,
    /// The database cannot be changed.
    ReadOnly,
    /// The database has no space left.
    Full,
    /// The database failed, or is not one of this store.
    Failed,
    /// The store was not called, or its result was lost.
    Call(CallErrorKind),
}

/// Each class with its code.
const CODES: [(StoreErrorKind, i32); 8] = [
    (StoreErrorKind::InvalidInput, 400),
    (StoreErrorKind::ReadOnly, 403),
    (StoreErrorKind::NotFound, 404),
    (StoreErrorKind::Conflict, 409),
    (StoreErrorKind::Failed, 500),
    (StoreErrorKind::Unavailable, 503),
    (StoreErrorKind::OutcomeUnknown, 504),
    (StoreErrorKind::Full, 507),
];

impl StoreError {
    /// Creates an error of a store.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Returns its class.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Returns whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            StoreErrorKind::Unavailable => true,
            StoreErrorKind::Call(_) => self.source.as_ref().is_some_and(CallError::is_retryable),
            _ => false,
        }
    }
}

impl From<StoreError> for PluginError {
    fn from(error: StoreError) -> Self {
        let code =
            CODES.iter().find(|(kind, _)| *kind == error.kind).map_or(500, |(_, code)| *code);
        let is_retryable = error.is_retryable();
        let own = PluginError::new(code, error.message);
        if is_retryable { own.retryable() } else { own }
    }
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        let Some(own) = error.plugin_error() else {
            let (kind, message) = (StoreErrorKind::Call(error.kind()), error.to_string());
            return Self { kind, message, source: Some(error) };
        };
        let kind = CODES.iter().find(|(_, code)| *code == own.code());
        Self::new(kind.map_or(StoreErrorKind::Failed, |(kind, _)| *kind), own.message())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_cross_with_their_class() {
        for (kind, code) in CODES {
            let crossed = PluginError::from(StoreError::new(kind, "it failed"));
            assert_eq!((crossed.code(), crossed.message()), (code, "it failed"));
            assert_eq!(crossed.is_retryable(), kind == StoreErrorKind::Unavailable);
            let back = StoreError::from(CallError::from(crossed));
            assert_eq!((back.kind(), back.to_string().as_str()), (kind, "it failed"));
        }
    }

    #[test]
    fn failures_of_calls_keep_their_cause() {
        let lost = StoreError::from(CallError::new(CallErrorKind::Unavailable, "not loaded"));
        assert_eq!(lost.kind(), StoreErrorKind::Call(CallErrorKind::Unavailable));
        assert!(lost.is_retryable() && lost.source().is_some());
    }
}
