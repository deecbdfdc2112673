//! The tables of the database, and their migration to the version of this build.

use rusqlite::{Connection, TransactionBehavior};
use storage_contract::StoreError;

use super::error::of_sqlite;
use crate::backend::{foreign_database, newer_schema};

/// Marks a database as one of this plugin: "hbkv".
const APPLICATION_ID: i32 = 0x6862_6B76;

/// What leads from each version to the next one.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE entries (
        key BLOB NOT NULL PRIMARY KEY,
        value BLOB NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE revisions (last INTEGER NOT NULL) STRICT;
    INSERT INTO revisions (last) VALUES (0);
"];

/// Creates the tables, or migrates them.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let fail = |error| of_sqlite(&error);
    // Other programs may have the database open.
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    let number =
        |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (id, version) =
        (number("application_id").map_err(fail)?, number("user_version").map_err(fail)?);
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: u32 = transaction.query_row(tables, [], |row| row.get(0)).map_err(fail)?;
    if id != APPLICATION_ID && (tables > 0 || version != 0) {
        return Err(foreign_database());
    }
    let newest = MIGRATIONS.len();
    let done = usize::try_from(version).ok().filter(|version| *version <= newest);
    let done = done.ok_or_else(|| newer_schema(version, newest))?;
    if done == newest {
        return Ok(());
    }
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration).map_err(fail)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
    transaction.pragma_update(None, "user_version", newest as u32).map_err(fail)?;
    transaction.commit().map_err(fail)
}
