//! Calls of one plugin: their queue, deadlines and cancellation, limits, faults, and calls by contract.

mod brief_path;
mod call_memory;
mod cancellation;
mod deadlines;
mod in_flight;
mod limits;
mod load_shedding;
mod memory_limit;
mod mixed_load;
mod panicking_wakers;
mod panics;
mod providers;
mod quarantine;
mod queue;
mod stuck_calls;
