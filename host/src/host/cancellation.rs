//! Shuts a host down when its application's token is cancelled.

use std::pin::pin;
use std::sync::{Arc, Weak};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::Inner;
use crate::error::{Error, ErrorKind};
use crate::sync::block_on;

/// Starts a thread that shuts `host` down when `token` is cancelled. Dropping the guard stops the
/// thread.
pub(super) fn shut_down_with(
    host: &Arc<Inner>,
    token: CancellationToken,
) -> Result<DropGuard, Error> {
    let host = Arc::downgrade(host);
    let dropped = CancellationToken::new();
    let guard = dropped.clone().drop_guard();
    let wait = move || {
        let cancelled = token.run_until_cancelled(dropped.cancelled());
        let is_dropped = block_on(pin!(cancelled)).is_some();
        if let Some(host) = Weak::upgrade(&host).filter(|_| !is_dropped) {
            host.shutdown(host.context.limits.drain_timeout);
        }
    };
    let spawned = std::thread::Builder::new().name("hotbay-cancel".to_owned()).spawn(wait);
    spawned.map_err(|error| {
        let message = "cannot start the thread that waits for the cancellation of the host";
        Error::new(ErrorKind::Overloaded, message).caused_by(error)
    })?;
    Ok(guard)
}
