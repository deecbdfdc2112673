//! The plugin of the benchmarks without the counting allocator; the same code in all else.

#[path = "../../echo/src/echo.rs"]
mod echo;

hotbay_plugin::export_plugin!(echo::Echo, allocator = uncounted);
