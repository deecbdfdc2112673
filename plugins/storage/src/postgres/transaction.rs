//! Changes in one transaction.

use futures_util::future::{join, join_all};
use tokio_postgres::Client;

use super::error::Failure;
use super::link::Link;
use super::statements::Statements;
use crate::backend::{Change, check_removal, conflict, stored_revision};

/// Maximum number of changes that are sent before the result of the first one is known.
const MAX_CHANGES_AHEAD: usize = 16;
/// Maximum number of bytes of their values, except that one change may have more.
const MAX_BYTES_AHEAD: usize = 1 << 20;

/// Reads what is committed, so that each statement sees all earlier changes: the revisions are locked
/// then. Whether it may write is up to the database and the user.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Makes all changes or none, and returns the revision of each one: 0 for a removal.
pub(super) async fn run(link: &Link, changes: &[Change<'static>]) -> Result<Vec<u64>, Failure> {
    let client = link.client();
    match made(client, link.statements().await?, changes).await {
        Ok(revisions) => {
            link.commit().await?;
            Ok(revisions)
        }
        Err(mut failure) => {
            // A connection that cannot roll back is in an unknown state.
            failure.is_broken =
                failure.is_broken || client.batch_execute("ROLLBACK").await.is_err();
            Err(failure)
        }
    }
}

/// Begins a transaction, and makes the changes.
async fn made(
    client: &Client,
    statements: &Statements,
    changes: &[Change<'static>],
) -> Result<Vec<u64>, Failure> {
    let saves = changes.iter().filter(|change| matches!(change, Change::Save { .. })).count();
    let saves = saves as i64;
    // Both are sent at once. If the first one fails, the second one only skips revisions.
    let (begun, last) =
        join(client.batch_execute(BEGIN), client.query_one(&statements.advance, &[&saves])).await;
    begun?;
    let mut revision = last?.try_get::<_, i64>(0)? - saves;
    let mut revisions = Vec::with_capacity(changes.len());
    while let rest @ [_, ..] = &changes[revisions.len()..] {
        let sent = rest[..number_ahead(rest)].iter().map(|change| {
            revision += i64::from(matches!(change, Change::Save { .. }));
            make(client, statements, change, revision)
        });
        // They are sent in this order.
        for result in join_all(sent).await {
            revisions.push(result?);
        }
    }
    Ok(revisions)
}

/// Returns the number of the changes to send next.
fn number_ahead(changes: &[Change<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |change: &&Change<'_>| {
        if let Change::Save { value, .. } = change {
            bytes += value.len();
        }
        bytes <= MAX_BYTES_AHEAD
    };
    changes.iter().take(MAX_CHANGES_AHEAD).take_while(fits).count().max(1)
}

/// Makes one change. `revision` is the new one, if it saves a value.
async fn make(
    client: &Client,
    statements: &Statements,
    change: &Change<'static>,
    revision: i64,
) -> Result<u64, Failure> {
    match change {
        Change::Save { key, value, expected } => {
            let (key, value) = (&**key, &**value);
            let changed = match expected {
                None => client.execute(&statements.save, &[&key, &value, &revision]).await?,
                Some(0) => client.execute(&statements.insert, &[&key, &value, &revision]).await?,
                Some(expected) => {
                    let expected = stored_revision(*expected);
                    let params = [&key as _, &value as _, &revision as _, &expected as _];
                    client.execute(&statements.update, &params).await?
                }
            };
            if changed == 1 { Ok(revision as u64) } else { Err(conflict().into()) }
        }
        Change::Delete { key, expected } => {
            let stored = expected.map(stored_revision);
            let found = client.query_opt(&statements.delete, &[&&**key, &stored]).await?;
            let found = found.map(|row| row.try_get(0)).transpose()?;
            check_removal(found, *expected)?;
            Ok(0)
        }
    }
}
