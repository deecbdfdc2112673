//! Errors of SQLite as errors of a store.

use rusqlite::ErrorCode;
use storage_contract::{StoreError, StoreErrorKind};

/// Returns the error of a statement.
pub(crate) fn of_sqlite(error: &rusqlite::Error) -> StoreError {
    use ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, PermissionDenied,
        ReadOnly, SystemIoFailure, TooBig,
    };
    let kind = match error.sqlite_error_code() {
        Some(DatabaseBusy | DatabaseLocked | OutOfMemory) => StoreErrorKind::Unavailable,
        Some(CannotOpen | SystemIoFailure) => StoreErrorKind::Unavailable,
        Some(ReadOnly | PermissionDenied) => StoreErrorKind::ReadOnly,
        Some(DiskFull) => StoreErrorKind::Full,
        Some(TooBig) => StoreErrorKind::InvalidInput,
        _ => StoreErrorKind::Failed,
    };
    StoreError::new(kind, format!("the database failed: {error}"))
}

/// Returns the error of a file.
pub(crate) fn error_of_io(error: &std::io::Error) -> StoreError {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            StoreErrorKind::ReadOnly
        }
        std::io::ErrorKind::StorageFull => StoreErrorKind::Full,
        _ => StoreErrorKind::Failed,
    };
    StoreError::new(kind, error.to_string())
}
