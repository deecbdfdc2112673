//! Estimates how many connections a child serves at once, by its responses. A single-threaded child
//! accepts a second connection only after the first is closed, so an idle kept connection would
//! block other requests forever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Time that a request on a new connection waits before other connections are suspected of blocking
/// it.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_millis(50);

/// Interval at which a request that still waits makes other connections close, whatever was learned
/// about the child: it may now serve fewer at once.
pub(crate) const GIVE_WAY_EVERY: Duration = Duration::from_secs(1);

/// Counters about the connections of one child.
#[derive(Debug)]
pub(crate) struct Sharing {
    counts: Arc<Counts>,
    /// Requests on new connections without a response yet.
    waiting: AtomicU32,
    /// The most connections that were open together and have all brought responses.
    proven: AtomicU32,
    /// The most connections that may be open while a request waits.
    limit: AtomicU32,
    /// Whether to close the next connection that receives its response.
    gives_way: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU32,
    /// Those of them that have brought a response.
    served: AtomicU32,
}

// Relaxed everywhere: the numbers are hints. A waiting request checks them again.
impl Sharing {
    pub(crate) fn new() -> Self {
        Self {
            counts: Arc::default(),
            waiting: AtomicU32::new(0),
            proven: AtomicU32::new(1),
            limit: AtomicU32::new(u32::MAX),
            gives_way: AtomicBool::new(false),
        }
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn opened(&self) -> Open {
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        Open { counts: Arc::clone(&self.counts), has_served: false }
    }

    /// Counts a request on a new connection until the guard is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Returns whether more connections than proven have brought responses together, provided that
    /// the child has closed none of them.
    pub(crate) fn may_be_more(&self) -> bool {
        self.counts.served.load(Ordering::Relaxed) > self.proven.load(Ordering::Relaxed)
    }

    /// Records that as many connections as have brought responses are served at once.
    pub(crate) fn prove(&self) {
        let served = self.counts.served.load(Ordering::Relaxed);
        if self.proven.fetch_max(served, Ordering::Relaxed) < served {
            self.limit.store(u32::MAX, Ordering::Relaxed);
        }
    }

    /// Returns whether idle connections may be the reason why a request got no response within
    /// [`SUSPECT_AFTER`].
    pub(crate) fn suspects(&self) -> bool {
        let proven = self.proven.load(Ordering::Relaxed);
        let is_suspect = self.counts.open.load(Ordering::Relaxed) > proven;
        if is_suspect {
            self.limit.store(proven, Ordering::Relaxed);
        }
        is_suspect
    }

    /// Makes the next connection that becomes idle close.
    pub(crate) fn give_way(&self) {
        self.gives_way.store(true, Ordering::Relaxed);
    }

    /// Returns whether another connection would exceed what the child is known to serve.
    pub(crate) fn is_full(&self) -> bool {
        self.counts.open.load(Ordering::Relaxed) >= self.limit.load(Ordering::Relaxed)
    }

    /// Returns whether a connection must be closed after its response, since a request waits.
    pub(crate) fn has_to_close(&self) -> bool {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.counts.open.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
            || self.gives_way.swap(false, Ordering::Relaxed)
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Open {
    counts: Arc<Counts>,
    has_served: bool,
}

impl Open {
    /// Records that it has brought a response.
    pub(crate) fn served(&mut self) {
        if !self.has_served {
            self.has_served = true;
            self.counts.served.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        if self.has_served {
            self.counts.served.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request that waits for its response on a new connection.
#[must_use]
pub(crate) struct Waiting<'s>(&'s Sharing);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_without_response_prove_nothing() {
        let sharing = Sharing::new();
        let (mut first, second) = (sharing.opened(), sharing.opened());
        first.served();
        assert!(!sharing.may_be_more(), "the second has no response");
        assert!(sharing.suspects() && sharing.is_full());
        let waiting = sharing.wait();
        assert!(sharing.has_to_close());
        drop(waiting);
        assert!(!sharing.has_to_close(), "no request waits");
        drop(first);
        let mut second = second;
        second.served();
        assert!(!sharing.may_be_more(), "the first was closed before");
        let mut third = sharing.opened();
        third.served();
        assert!(sharing.may_be_more());
        sharing.prove();
        assert!(!sharing.suspects() && !sharing.is_full());
    }

    #[test]
    fn one_connection_at_a_time_gives_way() {
        let sharing = Sharing::new();
        sharing.give_way();
        assert!(!sharing.has_to_close(), "no request waits");
        let _waiting = sharing.wait();
        assert!(sharing.has_to_close());
        assert!(!sharing.has_to_close());
    }
}
