//! The store: rows by number, rejected ones apart, and the position in the file. A batch and the
//! position after it are one change, so a load that is killed continues exactly behind it.

use anyhow::Context;
use etl_contract::Outcome;
use hotbay::contract::Handle;
use serde::{Deserialize, Serialize};
use storage_contract::{Change, KeyValue, StoreErrorKind};

const POSITION: &[u8] = b"position";

/// The store, through the contract of the plugin `storage`.
pub(crate) struct Store {
    plugin: Handle<dyn KeyValue>,
    /// The revision of the position; 0 if there is none. Another load that uses the same store
    /// changes it, and then this one fails instead of storing rows twice.
    revision: u64,
}

/// How far a file is loaded.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Position {
    /// The SHA-256 digest of the file.
    pub(crate) file: String,
    /// The number of rows that are stored or rejected.
    pub(crate) rows: u64,
    /// The number of those that were rejected.
    pub(crate) rejected: u64,
}

impl Position {
    pub(crate) fn start(file: &str) -> Self {
        Self { file: file.to_owned(), rows: 0, rejected: 0 }
    }
}

impl Store {
    pub(crate) fn new(plugin: Handle<dyn KeyValue>) -> Self {
        Self { plugin, revision: 0 }
    }

    /// Returns the position; `None` if the store has none.
    pub(crate) fn position(&mut self) -> anyhow::Result<Option<Position>> {
        match self.plugin.load(POSITION) {
            Ok(entry) => {
                self.revision = entry.revision;
                Ok(Some(serde_json::from_slice(&entry.value).context("invalid position")?))
            }
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores rows that follow a position, and returns the position after them.
    pub(crate) fn save(
        &mut self,
        mut position: Position,
        outcomes: &[Outcome],
    ) -> anyhow::Result<Position> {
        let mut changes = Vec::with_capacity(outcomes.len() + 1);
        for outcome in outcomes {
            position.rows += 1;
            let (kind, value) = match outcome {
                Outcome::Passed(row) => ("row", serde_json::to_vec(&row.values)?),
                Outcome::Rejected(reason) => {
                    position.rejected += 1;
                    ("rejected", reason.clone().into_bytes())
                }
            };
            let key = format!("{kind}/{:010}", position.rows).into_bytes();
            // 0: it must not exist.
            changes.push(Change::Save { key, value, expected: Some(0) });
        }
        let value = serde_json::to_vec(&position)?;
        let expected = Some(self.revision);
        changes.push(Change::Save { key: POSITION.to_vec(), value, expected });
        let revisions = self.plugin.batch(changes).context("cannot store a batch")?;
        self.revision = revisions.last().copied().context("the store returned no revisions")?;
        Ok(position)
    }
}
