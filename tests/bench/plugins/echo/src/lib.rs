//! The plugin of the benchmarks as authors export theirs by default: allocations are counted.

mod echo;

hotbay_plugin::export_plugin!(echo::Echo);
