//! Serves the contract `data-processor` in its own process.

use data_contract::{DataProcessor, Processed, Record};
use hotbay_plugin::contract::CallError;
use hotbay_plugin::prelude::*;

struct Processor;

impl Plugin for Processor {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Ok(Self)
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "call the contract `data-processor`"))
    }
}

impl DataProcessor for Processor {
    fn ping(&self) -> Result<String, CallError> {
        Ok("a program in Rust".to_owned())
    }

    fn process_data(&self, record: Record) -> Result<Processed, CallError> {
        let Record { name, values: mut sorted } = record;
        if sorted.is_empty() {
            return Err(PluginError::new(422, format!("`{name}` has no values")).into());
        }
        sorted.sort_unstable();
        let sum = sorted.iter().fold(0_i64, |sum, value| sum.saturating_add(*value));
        Ok(Processed { name, sorted, sum })
    }
}

serve_plugin!(Processor, contracts = [DataProcessor]);
