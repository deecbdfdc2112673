//! The contract `key-value`: the crate that an application shares with its stores.
//!
//! `plugins/storage` serves it.

#![forbid(unsafe_code)]

mod error;

pub use error::{StoreError, StoreErrorKind};

/// Maximum number of bytes of a key.
pub const MAX_KEY_BYTES: usize = 1024;
/// Maximum number of bytes of a value.
pub const MAX_VALUE_BYTES: usize = 64 << 20;
/// Maximum number of keys of a page.
pub const MAX_PAGE: u32 = 1000;
/// Maximum number of operations of a batch.
pub const MAX_BATCH: usize = 10_000;

/// Stores values by key. Keys have 1 to [`MAX_KEY_BYTES`] bytes of any value, and are ordered by their
/// bytes; values have up to [`MAX_VALUE_BYTES`].
///
/// Each change of a value gives it a new revision, greater than all earlier ones of the store. A
/// method with `expected` changes the value only if it has this revision (0: if there is no value),
/// and fails with [`StoreErrorKind::Conflict`] otherwise. Removing a value that does not exist fails with
/// `NotFound`, and succeeds if 0 is expected.
#[hotbay_plugin::contract(name = "key-value", version = "1.0")]
pub trait KeyValue {
    /// Stores a value, and returns its revision.
    ///
    /// # Errors
    ///
    /// `Conflict`; `InvalidInput` if key or value are too long.
    fn save(&self, key: &[u8], value: &[u8], expected: Option<u64>) -> Result<u64, StoreError>;

    /// Returns a value.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    fn load(&self, key: &[u8]) -> Result<Entry, StoreError>;

    /// Removes a value.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Conflict`.
    fn delete(&self, key: &[u8], expected: Option<u64>) -> Result<(), StoreError>;

    /// Returns up to `limit` keys (1 to [`MAX_PAGE`]) with a prefix, in order, that come after
    /// another key (empty: from the first one on).
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the limit is out of range.
    fn list(&self, prefix: &[u8], after: &[u8], limit: u32) -> Result<Page, StoreError>;

    /// Makes up to [`MAX_BATCH`] changes, all or none, and returns the revision of each one: 0 for a
    /// removal.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if a change or their number is out of range; otherwise the error of the first
    /// change that fails.
    fn batch(&self, changes: Vec<Change>) -> Result<Vec<u64>, StoreError>;
}

/// A value.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value itself.
    pub value: Vec<u8>,
    /// Its revision.
    pub revision: u64,
}

/// A part of a list of keys.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The keys.
    pub keys: Vec<Vec<u8>>,
    /// Whether there are more keys, which come after the last one of this page.
    pub has_more: bool,
}

/// A change of a batch.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Stores a value.
    Save {
        /// Its key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
        /// The revision that it must have had.
        expected: Option<u64>,
    },
    /// Removes a value.
    Delete {
        /// Its key.
        key: Vec<u8>,
        /// The revision that it must have.
        expected: Option<u64>,
    },
}

#[cfg(test)]
mod tests {
    #[test]
    fn contract_has_no_breaking_changes() {
        hotbay_plugin::contract::check_golden::<dyn super::KeyValue>("contracts/key-value.txt");
    }
}
