//! The services of the latest start in this library, for code that receives none, such as the
//! logging bridges. Nothing here is ever dropped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::HostServices;

/// A mapped library belongs to one host, so its functions never change. Each start has a token.
static FUNCTIONS: OnceLock<HostServices> = OnceLock::new();
static TOKEN: AtomicU64 = AtomicU64::new(0);

/// Replaces the current services.
pub(crate) fn set(services: &HostServices) {
    TOKEN.store(services.raw.token(), Ordering::Release);
    let _ = FUNCTIONS.set(services.clone());
}

/// Returns the current services without taking a lock.
pub(crate) fn get() -> Option<HostServices> {
    let functions = FUNCTIONS.get()?;
    Some(HostServices::new(functions.raw.with_token(TOKEN.load(Ordering::Acquire))))
}
