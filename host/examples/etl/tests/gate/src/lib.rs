//! A step that waits until a test lets rows pass: it connects to an address, and returns when the
//! other side closes the connection.

#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a fixture")]

use std::io::{Error, Read};
use std::net::TcpStream;

use etl_contract::{Outcome, Row, Step};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Gate {
    address: String,
}

impl Plugin for Gate {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        config.parse()
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `etl-step`"))
    }
}

impl Step for Gate {
    fn process(&self, rows: &[Row]) -> Result<Vec<Outcome>, CallError> {
        let failed = |error: Error| PluginError::new(500, error.to_string());
        let mut stream = TcpStream::connect(&self.address).map_err(failed)?;
        stream.read_to_end(&mut Vec::new()).map_err(failed)?;
        Ok(rows.iter().cloned().map(Outcome::Passed).collect())
    }
}

export_plugin!(Gate, contracts = [Step]);
