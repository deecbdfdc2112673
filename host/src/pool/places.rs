//! The places that a task needs before it is accepted: one for its result, and one in the queue.
//! Who waits for a place gets it in turn; nothing here knows what is put there.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::SubmitErrorKind;
use super::quiet::quietly;

/// A place that was taken; free again when dropped, which may wake who waits for it.
pub(super) type Place = OwnedSemaphorePermit;

/// The places of one pool.
#[derive(Debug)]
pub(super) struct Places {
    queue: Row,
    results: Row,
}

#[derive(Debug)]
struct Row {
    free: Arc<Semaphore>,
    places_max: u32,
}

/// The places of one task.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) queue: Place,
    pub(super) result: Place,
}

impl Places {
    pub(super) fn new(queue_max: u32, results_max: u32) -> Self {
        Self { queue: Row::new(queue_max), results: Row::new(results_max) }
    }

    /// Takes both places if both are free.
    pub(super) fn try_take(&self) -> Result<Taken, SubmitErrorKind> {
        let result = self.results.try_take(SubmitErrorKind::StoreFull)?;
        let queue = self.queue.try_take(SubmitErrorKind::QueueFull)?;
        Ok(Taken { queue, result })
    }

    /// Waits for both places; fails once the pool is closed, and at once where there are none.
    pub(super) async fn take(&self) -> Result<Taken, SubmitErrorKind> {
        // In this order: a place in the queue is soon free again, and so held as briefly.
        let result = self.results.take(SubmitErrorKind::StoreFull).await?;
        let queue = self.queue.take(SubmitErrorKind::QueueFull).await?;
        Ok(Taken { queue, result })
    }

    /// Gives out no more places; tells those who wait.
    pub(super) fn close(&self) {
        quietly(|| self.results.free.close());
        quietly(|| self.queue.free.close());
    }

    pub(super) fn are_closed(&self) -> bool {
        self.queue.free.is_closed()
    }
}

impl Row {
    fn new(places_max: u32) -> Self {
        let places = usize::try_from(places_max).unwrap_or(usize::MAX);
        Self { free: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))), places_max }
    }

    fn try_take(&self, full: SubmitErrorKind) -> Result<Place, SubmitErrorKind> {
        Arc::clone(&self.free).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => SubmitErrorKind::Closed,
            TryAcquireError::NoPermits => full,
        })
    }

    async fn take(&self, full: SubmitErrorKind) -> Result<Place, SubmitErrorKind> {
        if self.places_max == 0 {
            // A wait would never end.
            return Err(full);
        }
        let place = Arc::clone(&self.free).acquire_owned().await;
        place.map_err(|_: AcquireError| SubmitErrorKind::Closed)
    }
}
