//! Code around a call: layers of the application, permissions, validation, the cache, and tower.

mod app_layers;
#[cfg(unix)]
mod both_kinds;
mod permissions;
mod request_extensions;
mod response_cache;
mod schema_budget;
mod tower;
mod validation;
