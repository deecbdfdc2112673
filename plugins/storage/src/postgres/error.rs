//! Errors of PostgreSQL as errors of a store.

use std::error::Error as _;
use std::io;

use storage_contract::{StoreError, StoreErrorKind};
use tokio_postgres::error::{DbError, Severity};

/// The reason a call failed, and what it means for the connection.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Whether the connection cannot be used again.
    pub(super) is_broken: bool,
    /// Whether the call must not be made again: it may have changed something, or took long.
    pub(super) is_final: bool,
}

impl Failure {
    /// Creates the failure of a connection that did not respond in time.
    pub(super) fn timed_out(what: &str) -> Self {
        let message = format!("the database did not respond in time: {what}");
        let error = StoreError::new(StoreErrorKind::Unavailable, message);
        Self { error, is_broken: true, is_final: true }
    }

    /// Marks the failure of a call whose commit was sent: without an answer, its result is unknown.
    pub(super) fn of_commit(self) -> Self {
        if !self.is_broken {
            return self;
        }
        let message = format!("{}; the change may have been made", self.error);
        let error = StoreError::new(StoreErrorKind::OutcomeUnknown, message);
        Self { error, is_final: true, ..self }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, is_broken: false, is_final: false }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let (kind, is_broken, cause) = match error.as_db_error() {
            Some(reported) => {
                let ends = [Severity::Fatal, Severity::Panic].map(Some);
                let is_broken = ends.contains(&reported.parsed_severity());
                let code = reported.code().code();
                (kind_of(code), is_broken, format!("{} ({code})", text_of(reported)))
            }
            None => {
                let is_lost = error.is_closed() || is_io(&error);
                let kind =
                    if is_lost { StoreErrorKind::Unavailable } else { StoreErrorKind::Failed };
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                (kind, true, format!("{error}{cause}"))
            }
        };
        let error = StoreError::new(kind, format!("the database failed: {cause}"));
        Self { error, is_broken, is_final: false }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    error.source().is_some_and(|cause| cause.is::<io::Error>())
}

fn text_of(error: &DbError) -> String {
    let detail = error.detail().map(|detail| format!("; {detail}")).unwrap_or_default();
    format!("{}{detail}", error.message())
}

/// Returns the class of an SQLSTATE.
pub(super) fn kind_of(code: &str) -> StoreErrorKind {
    match code {
        // A disk without space.
        "53100" => StoreErrorKind::Full,
        // A transaction or a database that only reads; missing privileges.
        "25006" | "42501" => StoreErrorKind::ReadOnly,
        // Waits that took too long or formed a circle, conflicts of transactions, an error of the disk.
        "55P03" | "57014" | "25P03" | "40001" | "40P01" | "58030" => StoreErrorKind::Unavailable,
        // A server that starts, stops or crashed, or that ended the connection.
        "57P01" | "57P02" | "57P03" | "57P05" => StoreErrorKind::Unavailable,
        // Lost connections, and too little of another resource.
        _ if code.starts_with("08") || code.starts_with("53") => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Failed,
    }
}
