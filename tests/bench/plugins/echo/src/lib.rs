//! The benchmark plugin as exported by default, with counted allocations.

mod echo;

hotbay_plugin::export_plugin!(echo::Echo);
