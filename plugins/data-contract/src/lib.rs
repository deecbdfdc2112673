//! The contract `data-processor`: the crate that an application shares with its plugins.
//!
//! `plugins/data-processor` serves it as a library, `data-processor-program` as a program in Rust, and
//! `data-processor-python` as one in Python. The example `data_processor` calls all of them by one
//! function.

use hotbay_plugin::PluginError;
use hotbay_plugin::contract::CallError;

/// Processes records.
#[hotbay_plugin::contract(name = "data-processor", version = "1.0")]
pub trait DataProcessor {
    /// Returns a text that names the processor.
    fn ping(&self) -> Result<String, CallError>;

    /// Returns the record with its values sorted, and their sum.
    ///
    /// # Errors
    ///
    /// Code 422 if the record has no values.
    fn process_data(&self, record: Record) -> Result<Processed, CallError>;
}

/// The input of [`DataProcessor::process_data`].
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The name of the record.
    pub name: String,
    /// Its values.
    pub values: Vec<i64>,
}

/// The result of [`DataProcessor::process_data`].
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub struct Processed {
    /// The name of the record.
    pub name: String,
    /// Its values in ascending order.
    pub sorted: Vec<i64>,
    /// Their sum.
    pub sum: i64,
}

impl TryFrom<Record> for Processed {
    type Error = PluginError;

    /// Processes a record, as all implementations in Rust do.
    fn try_from(record: Record) -> Result<Self, PluginError> {
        let Record { name, values: mut sorted } = record;
        if sorted.is_empty() {
            return Err(PluginError::new(422, format!("`{name}` has no values")));
        }
        sorted.sort_unstable();
        let sum = sorted.iter().fold(0_i64, |sum, value| sum.saturating_add(*value));
        Ok(Self { name, sorted, sum })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn contract_has_no_breaking_changes() {
        hotbay_plugin::contract::check_golden::<dyn super::DataProcessor>(
            "contracts/data-processor.txt",
        );
    }
}
