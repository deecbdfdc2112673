//! Logs of plugins in the host program's subscriber, and how texts of plugins are shown.

mod events;
pub(crate) mod recorder;
mod text_escaping;
