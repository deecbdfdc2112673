//! The contract of the steps that a row passes before it is stored.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use hotbay_plugin::contract::CallError;

/// Checks or changes rows, each without the others.
#[hotbay_plugin::contract(name = "etl-step", version = "1.0")]
pub trait Step {
    /// Returns an outcome for each row, in their order.
    ///
    /// # Errors
    ///
    /// With any error, the load stops before these rows.
    fn process(&self, rows: &[Row]) -> Result<Vec<Outcome>, CallError>;
}

/// A row: values by the names of their columns.
#[hotbay_plugin::data]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The values.
    pub values: BTreeMap<String, String>,
}

impl Row {
    /// Returns the value of a column.
    ///
    /// # Errors
    ///
    /// A message if there is no such column.
    ///
    /// ```
    /// let row = etl_contract::Row { values: [("a".to_owned(), "1".to_owned())].into() };
    /// assert_eq!(row.get("a"), Ok("1"));
    /// assert_eq!(row.get("b"), Err("column `b` not found".to_owned()));
    /// ```
    pub fn get(&self, column: &str) -> Result<&str, String> {
        let value = self.values.get(column);
        value.map(String::as_str).ok_or_else(|| format!("column `{column}` not found"))
    }
}

/// The outcome of a step for a row.
#[hotbay_plugin::data]
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The row for the next step.
    Passed(Row),
    /// The reason to store the row as rejected.
    Rejected(String),
}

impl From<Result<Row, String>> for Outcome {
    fn from(result: Result<Row, String>) -> Self {
        result.map_or_else(Self::Rejected, Self::Passed)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn contract_has_no_breaking_changes() {
        hotbay_plugin::contract::check_golden::<dyn super::Step>("contracts/etl-step.txt");
    }
}
