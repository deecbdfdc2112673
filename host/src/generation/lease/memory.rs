//! The limit of the memory that a call takes. An allocator can neither unwind nor return null without
//! ending the process, so a call over the limit runs to its end, and then fails.

use crate::boundary::CallMeter;
use crate::error::{Error, ErrorKind};
use crate::generation::{Backend, CallPolicy, Generation};

/// Limits the memory of the calls of a library that counts bytes.
pub(super) struct CallMemory {
    meter: CallMeter,
    max_bytes: u64,
}

impl CallMemory {
    /// Returns the limit of a plugin; `None` if it has none, or its memory is not counted.
    pub(super) fn of(policy: &CallPolicy, backend: &Backend) -> Option<Self> {
        let max_bytes = policy.max_call_memory_bytes?;
        Some(Self { meter: backend.call_meter()?, max_bytes })
    }

    /// Runs `call` of a plugin on this thread. Fails if it succeeds, but took too much memory.
    pub(super) fn limit(
        &self,
        generation: &Generation,
        call: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (outcome, peak) = self.meter.measure(call);
        outcome?;
        if peak > self.max_bytes { Err(self.exceeded(generation, peak)) } else { Ok(()) }
    }

    #[cold]
    fn exceeded(&self, generation: &Generation, peak: u64) -> Error {
        let max = self.max_bytes;
        let message = format!(
            "took {peak} bytes of memory for a call; its `limits.call_memory_bytes` is {max}"
        );
        Error::new(ErrorKind::InvalidOutput, message)
            .with_hint(
                "send a smaller input, or raise `limits.call_memory_bytes` in plugin.json and the \
                 host's `max_call_memory_bytes`",
            )
            .of(&generation.name)
            .in_generation(generation.id)
    }
}
