//! Serves the contract `data-processor` as a library.

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
        Ok("a library".to_owned())
    }

    fn process_data(&self, record: Record) -> Result<Processed, CallError> {
        Ok(Processed::try_from(record)?)
    }
}

export_plugin!(Processor, contracts = [DataProcessor]);
