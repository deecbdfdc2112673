//! The plugin `storage`: stores values by key in a database of SQLite or PostgreSQL. It serves the
//! contract `key-value`, and the same methods as JSON.

#![forbid(unsafe_code)]

mod backend;
mod config;
mod json;
mod pool;
mod postgres;
mod sqlite;
mod store;

use hotbay_plugin::prelude::*;
use storage_contract::{Change, Entry, KeyValue, Page, StoreError};

use config::Settings;
use store::Store;

/// The plugin: an open database.
#[derive(Debug)]
pub struct Storage {
    store: Store,
}

impl Plugin for Storage {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self { store: Store::open(&Settings::parse(config)?)? })
    }

    /// Runs a request in JSON; see `json.rs`.
    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        json::run(&self.store, input.json()?)
    }

    fn validate_config(config: &Config) -> Result<(), PluginError> {
        Settings::parse(config).map(drop)
    }

    /// Closes a database that two builds must not have open. There is no other state.
    fn snapshot(&self) -> Result<Option<Snapshot>, PluginError> {
        self.store.close();
        Ok(None)
    }

    fn health(&self) -> Result<(), PluginError> {
        Ok(self.store.check()?)
    }
}

impl KeyValue for Storage {
    fn save(&self, key: &[u8], value: &[u8], expected: Option<u64>) -> Result<u64, StoreError> {
        self.store.save(key, value, expected)
    }

    fn load(&self, key: &[u8]) -> Result<Entry, StoreError> {
        self.store.load(key)
    }

    fn delete(&self, key: &[u8], expected: Option<u64>) -> Result<(), StoreError> {
        self.store.delete(key, expected)
    }

    fn list(&self, prefix: &[u8], after: &[u8], limit: u32) -> Result<Page, StoreError> {
        self.store.list(prefix, after, limit)
    }

    fn batch(&self, changes: Vec<Change>) -> Result<Vec<u64>, StoreError> {
        self.store.batch(changes)
    }
}

export_plugin!(Storage, contracts = [KeyValue]);

#[cfg(test)]
mod tests;
