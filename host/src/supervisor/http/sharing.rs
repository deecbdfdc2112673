//! How many connections a child serves at once, as far as its responses show. A child with one
//! thread accepts the second connection when the first is closed: a connection that is kept idle
//! would keep the request on another from being read forever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How long a request on a new connection waits before other connections are suspected to keep
/// it from being read.
pub(super) const SUSPECT_AFTER: Duration = Duration::from_millis(50);

/// Between two occasions on which a request that waits on has connections closed, whatever is
/// known of the child: it may serve fewer at once than before.
pub(super) const GIVE_WAY_EVERY: Duration = Duration::from_secs(1);

/// What is known of how many connections a child serves at once.
#[derive(Debug)]
pub(in crate::supervisor) struct Sharing {
    counts: Arc<Counts>,
    /// Requests on new connections that have no response yet.
    waiting: AtomicU32,
    /// The most connections that brought responses while they were open together.
    proven: AtomicU32,
    /// The most that may be open while a request waits.
    limit: AtomicU32,
    /// The next connection whose response has come is closed.
    gives_way: AtomicBool,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicU32,
    /// Those of them that have brought a response.
    served: AtomicU32,
}

// Relaxed everywhere: the numbers are hints. A request that waits looks at them again.
impl Sharing {
    pub(super) fn new() -> Self {
        Self {
            counts: Arc::default(),
            waiting: AtomicU32::new(0),
            proven: AtomicU32::new(1),
            limit: AtomicU32::new(u32::MAX),
            gives_way: AtomicBool::new(false),
        }
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn opened(&self) -> Open {
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        Open { counts: Arc::clone(&self.counts), has_served: false }
    }

    /// Counts a request on a new connection that has no response yet.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Whether more connections have brought responses together than was known to be possible,
    /// provided that the child has closed none of them.
    pub(super) fn may_be_more(&self) -> bool {
        self.counts.served.load(Ordering::Relaxed) > self.proven.load(Ordering::Relaxed)
    }

    /// As many connections as have brought responses are served at once.
    pub(super) fn prove(&self) {
        let served = self.counts.served.load(Ordering::Relaxed);
        if self.proven.fetch_max(served, Ordering::Relaxed) < served {
            self.limit.store(u32::MAX, Ordering::Relaxed);
        }
    }

    /// A request on a new connection was not answered for [`SUSPECT_AFTER`]: whether connections
    /// that are idle may be the reason.
    pub(super) fn suspects(&self) -> bool {
        let proven = self.proven.load(Ordering::Relaxed);
        let is_suspect = self.counts.open.load(Ordering::Relaxed) > proven;
        if is_suspect {
            self.limit.store(proven, Ordering::Relaxed);
        }
        is_suspect
    }

    /// Has the next connection closed that becomes idle.
    pub(super) fn give_way(&self) {
        self.gives_way.store(true, Ordering::Relaxed);
    }

    /// Whether one more connection is more than the child is known to serve.
    pub(super) fn is_full(&self) -> bool {
        self.counts.open.load(Ordering::Relaxed) >= self.limit.load(Ordering::Relaxed)
    }

    /// Whether a connection has to be closed after its response, since another waits for it.
    pub(super) fn has_to_close(&self) -> bool {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.counts.open.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
            || self.gives_way.swap(false, Ordering::Relaxed)
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct Open {
    counts: Arc<Counts>,
    has_served: bool,
}

impl Open {
    /// It has brought a response.
    pub(super) fn served(&mut self) {
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
pub(super) struct Waiting<'s>(&'s Sharing);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_only_wait_prove_nothing() {
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
    fn one_connection_gives_way_at_a_time() {
        let sharing = Sharing::new();
        sharing.give_way();
        assert!(!sharing.has_to_close(), "no request waits");
        let _waiting = sharing.wait();
        assert!(sharing.has_to_close());
        assert!(!sharing.has_to_close());
    }
}
