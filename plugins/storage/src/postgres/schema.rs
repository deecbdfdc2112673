//! The tables of the database, and their migration to the version of this build.

use tokio_postgres::Client;

use super::error::Failure;
use crate::backend::{foreign_database, newer_schema};

/// Marks a database as one of this plugin, as in SQLite: "hbkv".
const APPLICATION: &str = "hbkv";

/// What leads from each version to the next one.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE storage_entries (
        key bytea NOT NULL PRIMARY KEY,
        value bytea NOT NULL,
        revision bigint NOT NULL
    );
    CREATE TABLE storage_revisions (last bigint NOT NULL);
    INSERT INTO storage_revisions (last) VALUES (0);
    CREATE TABLE storage_schema (application text NOT NULL, version integer NOT NULL);
    INSERT INTO storage_schema (application, version) VALUES ('hbkv', 0);
"];

/// Creates the tables, or migrates them. Several hosts may do so at once.
pub(super) async fn migrate(client: &Client) -> Result<(), Failure> {
    // Without a lock or a change, which a standby or a user that only reads may not make.
    if version(client).await? == MIGRATIONS.len() {
        return Ok(());
    }
    let migrated = locked(client).await;
    let end = if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    migrated?;
    Ok(ended?)
}

/// Migrates the tables in a transaction with a lock.
async fn locked(client: &Client) -> Result<(), Failure> {
    // Read committed, so that the tables of another host are seen after the wait for it.
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED;
                 SELECT pg_advisory_xact_lock(hashtextextended('hotbay storage', 0))";
    client.batch_execute(begin).await?;
    let done = version(client).await?;
    for migration in &MIGRATIONS[done..] {
        client.batch_execute(migration).await?;
    }
    let set = format!("UPDATE storage_schema SET version = {}", MIGRATIONS.len());
    Ok(client.batch_execute(&set).await?)
}

/// Returns the version of the tables, which this build knows; 0 if there are none.
async fn version(client: &Client) -> Result<usize, Failure> {
    let tables = "SELECT to_regclass('storage_schema') IS NOT NULL,
                         coalesce(to_regclass('storage_entries'), to_regclass('storage_revisions'))
                             IS NOT NULL,
                         (SELECT count(*) FROM pg_attribute
                          WHERE attrelid = to_regclass('storage_schema')
                            AND (attname, format_type(atttypid, NULL)) IN
                                (('application', 'text'), ('version', 'integer')))";
    let row = client.query_one(tables, &[]).await?;
    let (has_schema, has_others): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    match (has_schema, has_others, row.try_get::<_, i64>(2)?) {
        (false, false, _) => return Ok(0),
        (true, _, 2) => {}
        _ => return Err(foreign_database().into()),
    }
    let version = "SELECT version FROM storage_schema WHERE application = $1";
    let version = client.query_opt(version, &[&APPLICATION]).await?;
    let version: i32 = version.ok_or_else(foreign_database)?.try_get(0)?;
    let newest = MIGRATIONS.len();
    let known = usize::try_from(version).ok().filter(|version| *version <= newest);
    Ok(known.ok_or_else(|| newer_schema(version, newest))?)
}
