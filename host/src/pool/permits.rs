//! The places that a task needs before it is accepted: one for its result, and one in the queue.
//! Who waits for a place gets it in turn; nothing here knows what is put there.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::SubmitErrorKind;
use crate::panic::drop_panic;

/// A place that was taken; free again when dropped, which may wake who waits for it.
pub(super) type QueuePermit = OwnedSemaphorePermit;

/// The places of one pool.
#[derive(Debug)]
pub(super) struct QueuePermits {
    queue: Permits,
    results: Permits,
}

#[derive(Debug)]
struct Permits {
    semaphore: Arc<Semaphore>,
    max_permits: u32,
}

/// The places of one task.
#[derive(Debug)]
pub(super) struct TaskPermits {
    pub(super) queue: QueuePermit,
    pub(super) result: QueuePermit,
}

impl QueuePermits {
    pub(super) fn new(max_queued_calls: u32, max_results: u32) -> Self {
        Self { queue: Permits::new(max_queued_calls), results: Permits::new(max_results) }
    }

    /// Takes both places if both are free.
    pub(super) fn try_acquire(&self) -> Result<TaskPermits, SubmitErrorKind> {
        let result = self.results.try_acquire(SubmitErrorKind::StoreFull)?;
        let queue = self.queue.try_acquire(SubmitErrorKind::QueueFull)?;
        Ok(TaskPermits { queue, result })
    }

    /// Waits for both places; fails once the pool is closed, and at once where there are none.
    pub(super) async fn acquire(&self) -> Result<TaskPermits, SubmitErrorKind> {
        // In this order: a place in the queue is soon free again, and so held as briefly.
        let result = self.results.acquire(SubmitErrorKind::StoreFull).await?;
        let queue = self.queue.acquire(SubmitErrorKind::QueueFull).await?;
        Ok(TaskPermits { queue, result })
    }

    /// Gives out no more places; tells those who wait.
    pub(super) fn close(&self) {
        drop_panic(|| self.results.semaphore.close());
        drop_panic(|| self.queue.semaphore.close());
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.semaphore.is_closed()
    }
}

impl Permits {
    fn new(places_max: u32) -> Self {
        let places = usize::try_from(places_max).unwrap_or(usize::MAX);
        Self {
            semaphore: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            max_permits: places_max,
        }
    }

    fn try_acquire(&self, full: SubmitErrorKind) -> Result<QueuePermit, SubmitErrorKind> {
        Arc::clone(&self.semaphore).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => SubmitErrorKind::Closed,
            TryAcquireError::NoPermits => full,
        })
    }

    async fn acquire(&self, full: SubmitErrorKind) -> Result<QueuePermit, SubmitErrorKind> {
        if self.max_permits == 0 {
            // A wait would never end.
            return Err(full);
        }
        let place = Arc::clone(&self.semaphore).acquire_owned().await;
        place.map_err(|_: AcquireError| SubmitErrorKind::Closed)
    }
}
