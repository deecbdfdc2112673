//! Returns its input, in place or on the heap, or panics, as configured.

use std::sync::atomic::{AtomicU64, Ordering};

use hotbay_plugin::prelude::*;

pub(crate) struct Echo {
    output: OutputMode,
    /// Number of calls to `execute` that had to panic.
    panics: AtomicU64,
}

#[derive(Clone, Copy)]
enum OutputMode {
    InPlace,
    Heap,
    Panic,
}

impl Plugin for Echo {
    fn init(config: &Config, _: HostServices) -> Result<Self, PluginError> {
        let output = match config.get("output").and_then(|output| output.as_str()) {
            Some("in-place") => OutputMode::InPlace,
            Some("panic") => OutputMode::Panic,
            _ => OutputMode::Heap,
        };
        Ok(Self { output, panics: AtomicU64::new(0) })
    }

    fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        match self.output {
            OutputMode::InPlace => Ok(Output::copy_of(input.as_bytes())),
            OutputMode::Heap => Ok(Output::bytes(input.as_bytes())),
            OutputMode::Panic => Ok(self.panic(input)),
        }
    }
}

impl Echo {
    /// Counts and panics; without input it returns the count.
    #[cold]
    fn panic(&self, input: Payload<'_>) -> Output {
        if input.is_empty() {
            return Output::text(self.panics.load(Ordering::Relaxed).to_string());
        }
        let number = self.panics.fetch_add(1, Ordering::Relaxed);
        panic!("panic {number} of the benchmark");
    }
}
