//! Collectors of events, and the counters of calls.

mod collector;
mod counters;
