//! The permits that a task needs before it is accepted: one for its result, and one for the queue.
//! Waiting tasks are served in order.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::SubmitErrorKind;
use crate::panic::drop_panic;

/// A permit; released on drop, which may wake a task that waits for one.
pub(super) type QueuePermit = OwnedSemaphorePermit;

/// The permits of one pool.
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

/// The permits of one task.
#[derive(Debug)]
pub(super) struct TaskPermits {
    pub(super) queue: QueuePermit,
    pub(super) result: QueuePermit,
}

impl QueuePermits {
    pub(super) fn new(max_queued_calls: u32, max_results: u32) -> Self {
        Self { queue: Permits::new(max_queued_calls), results: Permits::new(max_results) }
    }

    /// Takes both permits if both are available.
    pub(super) fn try_acquire(&self) -> Result<TaskPermits, SubmitErrorKind> {
        let result = self.results.try_acquire(SubmitErrorKind::StoreFull)?;
        let queue = self.queue.try_acquire(SubmitErrorKind::QueueFull)?;
        Ok(TaskPermits { queue, result })
    }

    /// Waits for both permits. Fails once the pool is closed, and at once if a limit is 0.
    pub(super) async fn acquire(&self) -> Result<TaskPermits, SubmitErrorKind> {
        // In this order: a permit of the queue is soon released, so it is held more briefly.
        let result = self.results.acquire(SubmitErrorKind::StoreFull).await?;
        let queue = self.queue.acquire(SubmitErrorKind::QueueFull).await?;
        Ok(TaskPermits { queue, result })
    }

    /// Issues no more permits, and wakes the waiting tasks.
    pub(super) fn close(&self) {
        drop_panic(|| self.results.semaphore.close());
        drop_panic(|| self.queue.semaphore.close());
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.semaphore.is_closed()
    }
}

impl Permits {
    fn new(max_permits: u32) -> Self {
        let permits = usize::try_from(max_permits).unwrap_or(usize::MAX);
        Self {
            semaphore: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            max_permits,
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
            // The wait would never end.
            return Err(full);
        }
        let permit = Arc::clone(&self.semaphore).acquire_owned().await;
        permit.map_err(|_: AcquireError| SubmitErrorKind::Closed)
    }
}
