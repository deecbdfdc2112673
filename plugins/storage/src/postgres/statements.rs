//! The prepared statements of a connection.

use futures_util::future::join_all;
use tokio_postgres::{Client, Error, Statement};

/// Each one is prepared once for each connection.
#[derive(Debug)]
pub(super) struct Statements {
    /// `(key) -> (value, revision)`
    pub(super) load: Statement,
    /// `(from, after, max) -> (key)`
    pub(super) list: Statement,
    /// `(from, after, max, end) -> (key)`
    pub(super) list_below: Statement,
    /// `() -> (revision)`
    pub(super) last: Statement,
    /// `(number) -> (last)`: locks the last revision, and adds a number to it.
    pub(super) advance: Statement,
    /// `(key, value, revision)`
    pub(super) save: Statement,
    /// `(key, value, revision)`: if there is no value.
    pub(super) insert: Statement,
    /// `(key, value, revision, expected)`: if the value has the expected revision.
    pub(super) update: Statement,
    /// `(key, expected) -> (revision)`: the revision of the value, which is removed if it is the
    /// expected one or `NULL` is expected.
    pub(super) delete: Statement,
}

const ALL: [&str; 9] = [
    "SELECT value, revision FROM storage_entries WHERE key = $1",
    "SELECT key FROM storage_entries WHERE key >= $1 AND key > $2 ORDER BY key LIMIT $3",
    "SELECT key FROM storage_entries WHERE key >= $1 AND key > $2 AND key < $4 ORDER BY key LIMIT $3",
    "SELECT last FROM storage_revisions",
    "UPDATE storage_revisions SET last = last + $1 RETURNING last",
    "INSERT INTO storage_entries (key, value, revision) VALUES ($1, $2, $3)
     ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
    "INSERT INTO storage_entries (key, value, revision) VALUES ($1, $2, $3)
     ON CONFLICT (key) DO NOTHING",
    "UPDATE storage_entries SET value = $2, revision = $3 WHERE key = $1 AND revision = $4",
    "WITH removed AS (DELETE FROM storage_entries WHERE key = $1 AND revision = coalesce($2, revision))
     SELECT revision FROM storage_entries WHERE key = $1",
];

impl Statements {
    /// Prepares all statements in one exchange with the server.
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let prepared = join_all(ALL.map(|statement| client.prepare(statement))).await;
        let mut prepared = prepared.into_iter();
        let mut next = || prepared.next().expect("as many as `ALL` has");
        Ok(Self {
            load: next()?,
            list: next()?,
            list_below: next()?,
            last: next()?,
            advance: next()?,
            save: next()?,
            insert: next()?,
            update: next()?,
            delete: next()?,
        })
    }
}
