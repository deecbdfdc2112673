//! The plugin `storage`: stores values by key in a SQLite database. It serves the contract
//! `key-value`, and the same methods as JSON.

#![forbid(unsafe_code)]

mod config;
mod error;
mod json;
mod lock;
mod pool;
mod schema;
mod sqlite;

use hotbay_plugin::prelude::*;
use storage_contract::{Change, Entry, KeyValue, Page, StoreError};

use config::Settings;
use sqlite::Database;

/// The plugin: an open database.
#[derive(Debug)]
pub struct Storage {
    database: Database,
}

impl Plugin for Storage {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self { database: Database::open(&Settings::parse(config)?)? })
    }

    /// Runs a request in JSON; see `json.rs`.
    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        json::run(self, input.json()?)
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        Settings::parse(config).map(drop)
    }

    /// Closes the database, which the next build opens. It has no other state.
    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        self.database.close();
        Ok(None)
    }

    fn health(&self) -> Result<(), PluginError> {
        Ok(self.database.check()?)
    }
}

impl KeyValue for Storage {
    fn save(&self, key: &[u8], value: &[u8], expected: Option<u64>) -> Result<u64, StoreError> {
        self.database.write(|change| change.save(key, value, expected))
    }

    fn load(&self, key: &[u8]) -> Result<Entry, StoreError> {
        self.database.load(key)
    }

    fn delete(&self, key: &[u8], expected: Option<u64>) -> Result<(), StoreError> {
        self.database.write(|change| change.delete(key, expected))
    }

    fn list(&self, prefix: &[u8], after: &[u8], limit: u32) -> Result<Page, StoreError> {
        self.database.list(prefix, after, limit)
    }

    fn batch(&self, changes: Vec<Change>) -> Result<Vec<u64>, StoreError> {
        self.database.batch(&changes)
    }
}

export_plugin!(Storage, contracts = [KeyValue]);

#[cfg(test)]
mod tests;
