//! The step `tz-rules`: converts the abbreviations of the time zone database into numbers: years,
//! months, and times in seconds. The rest of a row stays as it is.

#![forbid(unsafe_code)]

mod abbreviations;

use etl_contract::{Outcome, Row, Step};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;

struct TzRules;

impl Plugin for TzRules {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `etl-step`"))
    }
}

impl Step for TzRules {
    fn process(&self, rows: &[Row]) -> Result<Vec<Outcome>, CallError> {
        Ok(rows.iter().map(|row| convert(row.clone()).into()).collect())
    }
}

fn convert(mut row: Row) -> Result<Row, String> {
    let to = match row.get("to")? {
        "o" => row.get("from")?.to_owned(),
        "ma" => String::new(),
        year => year.to_owned(),
    };
    let month = abbreviations::month(row.get("month")?)?;
    let (at, basis) = abbreviations::time(row.get("at")?)?;
    let save = abbreviations::seconds(row.get("save")?)?;
    let letters = row.get("letters")?.trim_start_matches('-').to_owned();
    row.values.extend([
        ("to".to_owned(), to),
        ("month".to_owned(), month.to_string()),
        ("at".to_owned(), at.to_string()),
        ("basis".to_owned(), basis.to_owned()),
        ("save".to_owned(), save.to_string()),
        ("letters".to_owned(), letters),
    ]);
    Ok(row)
}

export_plugin!(TzRules, contracts = [Step]);
