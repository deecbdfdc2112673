//! The contract of the benchmarks.

#![forbid(unsafe_code)]

use hotbay_plugin::contract::CallError;

/// Methods with arguments of each form.
#[hotbay_plugin::contract(name = "bench", version = "1.0")]
pub trait Bench {
    /// Adds two numbers.
    fn score(&self, a: f64, b: f64) -> Result<f64, CallError>;
    /// Returns the number of bytes.
    fn length(&self, text: &str) -> Result<u64, CallError>;
    /// Returns the record.
    fn record(&self, record: Record) -> Result<Record, CallError>;
    /// Adds two numbers in a task.
    async fn add(&self, a: u64, b: u64) -> Result<u64, CallError>;
}

/// A record of ten fields.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Record {
    pub id: u64,
    pub name: String,
    pub email: String,
    pub age: u8,
    pub is_active: bool,
    pub score: f64,
    pub tags: Vec<String>,
    pub address: Option<String>,
    pub created: i64,
    pub updated: i64,
}

impl Record {
    /// Returns a record with all fields set.
    pub fn example() -> Self {
        Self {
            id: 12_345,
            name: "Ada Lovelace".to_owned(),
            email: "ada@example.org".to_owned(),
            age: 36,
            is_active: true,
            score: 0.75,
            tags: vec!["mathematics".to_owned(), "engines".to_owned()],
            address: Some("12 St James's Square".to_owned()),
            created: 1_700_000_000,
            updated: -1,
        }
    }
}
