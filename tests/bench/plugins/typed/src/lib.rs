//! Serves the contract of the benchmarks.

use bench_contract::{Bench, Record};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;

#[derive(Debug)]
struct Typed;

impl Plugin for Typed {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        Ok(Output::copy_of(input.as_bytes()))
    }
}

impl Bench for Typed {
    fn score(&self, a: f64, b: f64) -> Result<f64, CallError> {
        Ok(a + b)
    }

    fn length(&self, text: &str) -> Result<u64, CallError> {
        Ok(text.len() as u64)
    }

    fn record(&self, record: Record) -> Result<Record, CallError> {
        Ok(record)
    }

    async fn add(&self, a: u64, b: u64) -> Result<u64, CallError> {
        Ok(a + b)
    }
}

export_plugin!(Typed, contracts = [Bench]);
