//! The store: checks keys, values and limits, and passes on what is in range to its database.

use std::borrow::Cow;

use storage_contract::{
    Change as Changed, Entry, KeyValue, MAX_BATCH, MAX_KEY_BYTES, MAX_PAGE, MAX_VALUE_BYTES, Page,
    StoreError, StoreErrorKind,
};

use crate::backend::{Backend, Change, KeyRange, not_found};
use crate::config::{DatabaseSettings, Settings};
use crate::postgres::Postgres;
use crate::sqlite::Sqlite;

/// A store in a database.
#[derive(Debug)]
pub(crate) struct Store {
    backend: Box<dyn Backend>,
}

impl Store {
    /// Opens the database of the config, and creates or migrates its tables.
    pub(crate) fn open(settings: &Settings) -> Result<Self, StoreError> {
        let backend: Box<dyn Backend> = match &settings.database {
            DatabaseSettings::Sqlite { file, readers } => {
                Box::new(Sqlite::open(settings.common, file, *readers)?)
            }
            DatabaseSettings::Postgres { config, connections, work_limit } => {
                Box::new(Postgres::open(settings.common, config, *connections, *work_limit)?)
            }
        };
        Ok(Self { backend })
    }

    /// Creates a store in a database that a test has opened.
    #[cfg(test)]
    pub(crate) fn on(backend: impl Backend + 'static) -> Self {
        Self { backend: Box::new(backend) }
    }

    /// Checks that the database answers.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.backend.check()
    }

    /// Closes the database until the next call, if another build must not have it open meanwhile.
    pub(crate) fn close(&self) {
        self.backend.close();
    }

    fn change_one(&self, change: Change<'_>) -> Result<u64, StoreError> {
        check(&change)?;
        let revisions = self.backend.change(vec![change])?;
        Ok(revisions.first().copied().unwrap_or_default())
    }
}

impl KeyValue for Store {
    fn save(&self, key: &[u8], value: &[u8], expected: Option<u64>) -> Result<u64, StoreError> {
        let (key, value) = (Cow::Borrowed(key), Cow::Borrowed(value));
        self.change_one(Change::Save { key, value, expected })
    }

    fn load(&self, key: &[u8]) -> Result<Entry, StoreError> {
        check_key(key)?;
        self.backend.load(key)?.ok_or_else(not_found)
    }

    fn delete(&self, key: &[u8], expected: Option<u64>) -> Result<(), StoreError> {
        self.change_one(Change::Delete { key: Cow::Borrowed(key), expected }).map(drop)
    }

    fn list(&self, prefix: &[u8], after: &[u8], limit: u32) -> Result<Page, StoreError> {
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(invalid(format!("the limit is {limit}; expected 1 to {MAX_PAGE}")));
        }
        // One more than the page has shows whether there are more.
        let (end, max) = (end_of_prefix(prefix), limit + 1);
        let mut keys = self.backend.list(KeyRange { from: prefix, end, after, max })?;
        let has_more = keys.len() > limit as usize;
        keys.truncate(limit as usize);
        Ok(Page { keys, has_more })
    }

    fn batch(&self, changes: Vec<Changed>) -> Result<Vec<u64>, StoreError> {
        if changes.len() > MAX_BATCH {
            return Err(invalid(format!(
                "{} changes; expected at most {MAX_BATCH}",
                changes.len()
            )));
        }
        let changes: Vec<_> = changes.into_iter().map(Change::from).collect();
        changes.iter().try_for_each(check)?;
        if changes.is_empty() { Ok(Vec::new()) } else { self.backend.change(changes) }
    }
}

impl From<Changed> for Change<'static> {
    fn from(change: Changed) -> Self {
        match change {
            Changed::Save { key, value, expected } => {
                Self::Save { key: Cow::Owned(key), value: Cow::Owned(value), expected }
            }
            Changed::Delete { key, expected } => Self::Delete { key: Cow::Owned(key), expected },
        }
    }
}

fn check(change: &Change<'_>) -> Result<(), StoreError> {
    match change {
        Change::Save { value, .. } if value.len() > MAX_VALUE_BYTES => {
            let length = value.len();
            Err(invalid(format!("a value of {length} bytes; expected up to {MAX_VALUE_BYTES}")))
        }
        Change::Save { key, .. } | Change::Delete { key, .. } => check_key(key),
    }
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    Err(invalid(format!("a key of {} bytes; expected 1 to {MAX_KEY_BYTES}", key.len())))
}

/// Returns the first key after all keys with a prefix; `None` if there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cold]
fn invalid(message: String) -> StoreError {
    StoreError::new(StoreErrorKind::InvalidInput, message)
}
