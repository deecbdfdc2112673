//! How many connections a child serves at once, as far as its responses show. A child with one
//! thread accepts the second connection when the first is closed: a connection that is kept idle
//! would keep the request on another from being read for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long a request on a new connection waits before other connections are suspected to keep
/// it from being read.
pub(super) const SUSPECT_AFTER: Duration = Duration::from_millis(50);

/// What is known of how many connections a child serves at once.
#[derive(Debug)]
pub(in crate::supervisor) struct Sharing {
    open: Arc<AtomicU32>,
    /// Requests on new connections that have no response yet.
    waiting: AtomicU32,
    /// The most connections that were open when a new one of them brought a response.
    proven: AtomicU32,
    /// The most that may be open while a request waits.
    limit: AtomicU32,
}

// Relaxed everywhere: the numbers are hints. Whoever waits looks again after `SUSPECT_AFTER`.
impl Sharing {
    pub(super) fn new() -> Self {
        Self {
            open: Arc::default(),
            waiting: AtomicU32::new(0),
            proven: AtomicU32::new(1),
            limit: AtomicU32::new(u32::MAX),
        }
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn opened(&self) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.open))
    }

    /// Counts a request on a new connection that has no response yet.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// A request on a new connection was answered.
    pub(super) fn answered(&self) {
        let open = self.open.load(Ordering::Relaxed);
        self.proven.fetch_max(open, Ordering::Relaxed);
        if open > self.limit.load(Ordering::Relaxed) {
            self.limit.store(u32::MAX, Ordering::Relaxed);
        }
    }

    /// A request on a new connection was not answered for [`SUSPECT_AFTER`]: whether connections
    /// that are idle may be the reason.
    pub(super) fn suspects(&self) -> bool {
        let proven = self.proven.load(Ordering::Relaxed);
        let is_suspect = self.open.load(Ordering::Relaxed) > proven;
        if is_suspect {
            self.limit.store(proven, Ordering::Relaxed);
        }
        is_suspect
    }

    /// Whether one more connection is more than the child is known to serve.
    pub(super) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.limit.load(Ordering::Relaxed)
    }

    /// Whether a connection has to be closed after its response, since another waits for it.
    pub(super) fn has_to_close(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
            && self.open.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Open(Arc<AtomicU32>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that waits for its response on a new connection.
#[must_use]
pub(super) struct Waiting<'s>(&'s Sharing);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
