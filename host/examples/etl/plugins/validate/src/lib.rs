//! The step `validate`: rejects rows whose values are not as its config says. It changes no row.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use etl_contract::{Outcome, Row, Step};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Validate {
    columns: BTreeMap<String, Column>,
}

/// What is valid in a column.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Column {
    /// With `max`: the value is a number.
    min: Option<i64>,
    max: Option<i64>,
    or: Vec<String>,
    max_bytes: usize,
}

impl Default for Column {
    fn default() -> Self {
        Self { min: None, max: None, or: Vec::new(), max_bytes: 100 }
    }
}

impl Column {
    fn check(&self, value: &str) -> Result<(), String> {
        if value.is_empty() || value.len() > self.max_bytes {
            return Err(format!("{} bytes; expected 1 to {}", value.len(), self.max_bytes));
        }
        let is_number = self.min.is_some() || self.max.is_some();
        if !is_number || self.or.iter().any(|other| other == value) {
            return Ok(());
        }
        let number: i64 = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
        let (min, max) = (self.min.unwrap_or(i64::MIN), self.max.unwrap_or(i64::MAX));
        if !(min..=max).contains(&number) {
            return Err(format!("{number}; expected {min} to {max}"));
        }
        Ok(())
    }
}

impl Plugin for Validate {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        config.parse()
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `etl-step`"))
    }
}

impl Step for Validate {
    fn process(&self, rows: &[Row]) -> Result<Vec<Outcome>, CallError> {
        let check = |row: &Row| {
            for (name, column) in &self.columns {
                let checked = column.check(row.get(name)?);
                checked.map_err(|reason| format!("column `{name}`: {reason}"))?;
            }
            Ok(row.clone())
        };
        Ok(rows.iter().map(|row| check(row).into()).collect())
    }
}

export_plugin!(Validate, contracts = [Step]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_must_be_a_number_in_range_or_listed() {
        let column = Column { min: Some(1), max: Some(3), or: vec!["o".to_owned()], max_bytes: 2 };
        for valid in ["1", "3", "o"] {
            assert_eq!(column.check(valid), Ok(()), "{valid}");
        }
        for invalid in ["", "0", "4", "x", "001"] {
            assert!(column.check(invalid).is_err(), "{invalid}");
        }
        assert_eq!(Column::default().check("any text"), Ok(()));
    }
}
