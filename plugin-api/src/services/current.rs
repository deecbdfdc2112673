//! The services of the start that this library serves now, for code that is handed none: the
//! bridges. A later start in the same image replaces them; nothing here is ever dropped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::HostServices;

/// An image belongs to one host, so its functions stay; each start has a token of its own.
static FUNCTIONS: OnceLock<HostServices> = OnceLock::new();
static TOKEN: AtomicU64 = AtomicU64::new(0);

/// Replaces what was set before.
pub(crate) fn set(services: &HostServices) {
    TOKEN.store(services.raw.token(), Ordering::Release);
    let _ = FUNCTIONS.set(services.clone());
}

/// The last that were set. Takes no lock.
pub(crate) fn get() -> Option<HostServices> {
    let functions = FUNCTIONS.get()?;
    Some(HostServices::new(functions.raw.with_token(TOKEN.load(Ordering::Acquire))))
}
