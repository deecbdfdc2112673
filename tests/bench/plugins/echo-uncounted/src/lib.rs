//! The benchmark plugin without the counting allocator, otherwise the same code.

#[path = "../../echo/src/echo.rs"]
mod echo;

hotbay_plugin::export_plugin!(echo::Echo, allocator = uncounted);
