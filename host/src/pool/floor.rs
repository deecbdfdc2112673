//! What the handle, the workers, the tasks and the tickets of one pool share: where tasks come
//! in, wait, run, and leave their outcomes. Owns no thread.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::places::{Place, Places, Taken};
use super::quiet::{caught, quietly};
use super::store::Store;
use super::{
    Epoch, Never, Patience, PoolLimits, Pushed, Queue, QueueLimits, Ran, SubmitError,
    SubmitErrorKind, TaskError, TaskId, TaskTicket, Work, park,
};
use crate::sync::{Busy, ProcessEpoch, deadline_in, lock};

/// One pool but for its threads.
pub(super) struct Floor<T> {
    pub(super) store: Store<T>,
    queue: Queue,
    places: Places,
    workers: u32,
    /// Threads that tell tasks that these never run.
    telling: Arc<Busy>,
    pub(super) process: ProcessEpoch,
}

/// A task on its way through the queue.
struct Task<T, F> {
    id: TaskId,
    floor: Arc<Floor<T>>,
    /// None once it ran, never ran, or was given back.
    waiting: Mutex<Option<Waiting<F>>>,
}

struct Waiting<F> {
    task: F,
    place: Place,
}

thread_local! {
    /// The addresses of the floors that this thread is inside of, one within the other.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Until it is dropped, this thread is inside a floor.
struct Inside;

impl<T: Send + 'static> Floor<T> {
    /// A floor, and the epoch of its workers, which are to be started.
    pub(super) fn new(limits: &PoolLimits) -> (Arc<Self>, Epoch) {
        let queue_max = usize::try_from(limits.queue_max).unwrap_or(usize::MAX);
        let queue = Queue::new();
        let places = QueueLimits { places: queue_max, outside: 0, replaced: 0 };
        let (epoch, _) = queue.begin(limits.workers, places);
        let floor = Self {
            store: Store::new(),
            queue,
            places: Places::new(limits.queue_max, limits.results_max),
            workers: limits.workers,
            telling: Arc::default(),
            process: ProcessEpoch::now(),
        };
        (Arc::new(floor), epoch)
    }

    /// Accepts a task if there is a place for it.
    pub(super) fn submit<F>(self: &Arc<Self>, task: F) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = self.can_accept().and_then(|()| self.places.try_take());
        self.accept(taken, task)
    }

    /// Accepts a task once there is a place for it; blocks for that at most `wait_max`.
    pub(super) fn submit_within<F>(
        self: &Arc<Self>,
        wait_max: Duration,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = self.can_accept().and_then(|()| {
            let wait = std::pin::pin!(self.places.take());
            let taken = park::wait(wait, Some(deadline_in(wait_max)));
            taken.unwrap_or_else(|| self.places.try_take())
        });
        self.accept(taken, task)
    }

    /// Accepts a task once there is a place for it.
    pub(super) async fn submit_waiting<F>(
        self: Arc<Self>,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = match self.can_accept() {
            Ok(()) => self.places.take().await,
            Err(kind) => Err(kind),
        };
        self.accept(taken, task)
    }

    fn can_accept(&self) -> Result<(), SubmitErrorKind> {
        if !self.process.is_current() {
            Err(SubmitErrorKind::Forked)
        } else if self.places.are_closed() {
            Err(SubmitErrorKind::Closed)
        } else if self.workers == 0 {
            Err(SubmitErrorKind::NoWorkers)
        } else {
            Ok(())
        }
    }

    fn accept<F>(
        self: &Arc<Self>,
        taken: Result<Taken, SubmitErrorKind>,
        task: F,
    ) -> Result<TaskTicket<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
    {
        let taken = match taken {
            Ok(taken) => taken,
            Err(kind) => return Err(SubmitError::new(kind, task)),
        };
        let id = TaskId::next();
        let waiting = Mutex::new(Some(Waiting { task, place: taken.queue }));
        let task = Arc::new(Task { id, floor: Arc::clone(self), waiting });
        // Before the push: a worker may be done before that returns.
        self.store.expect(id, taken.result);
        let (pushed, _) = self.queue.push(Arc::<Task<T, F>>::clone(&task), Patience::default());
        let kind = match pushed {
            // All workers were started with the pool, so there is none to hire.
            Pushed::Waits | Pushed::Hire(_) => return Ok(TaskTicket::new(id, Arc::clone(self))),
            Pushed::Full => SubmitErrorKind::QueueFull,
            Pushed::Closed => SubmitErrorKind::Closed,
        };
        self.store.forget(id);
        let Waiting { task, place } = task.take().expect("what was not queued is never run");
        quietly(|| drop(place));
        Err(SubmitError::new(kind, task))
    }

    /// Does what comes until the pool ends.
    pub(super) fn work(self: &Arc<Self>, epoch: Epoch) {
        let _inside = self.enter();
        let seat = self.queue.sit(epoch);
        while let Some(work) = self.queue.take(seat).0.work {
            quietly(|| {
                let _ = work.run(0);
            });
        }
    }

    /// Accepts no more; workers go home once nothing waits.
    pub(super) fn finish(&self) {
        self.places.close();
        self.queue.finish();
    }

    /// Accepts no more; workers go home after what they do now, and the rest is told.
    pub(super) fn close(self: &Arc<Self>) {
        // What is told and dropped here is not to wait for this pool.
        let _inside = self.enter();
        let _telling = self.telling.begin();
        self.places.close();
        self.queue.close();
    }

    /// Waits until each task is told, after the workers have gone home.
    pub(super) fn wait_told(&self) {
        self.telling.wait_idle(deadline_in(Duration::MAX));
    }

    fn enter(self: &Arc<Self>) -> Inside {
        INSIDE.with_borrow_mut(|inside| inside.push(self.address()));
        Inside
    }
}

impl<T> Floor<T> {
    /// Whether this thread is a worker of this pool, so that waiting for it could be for ever.
    pub(super) fn is_inside(&self) -> bool {
        INSIDE.with_borrow(|inside| inside.contains(&self.address()))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl<T, F> Task<T, F> {
    fn take(&self) -> Option<Waiting<F>> {
        lock(&self.waiting).take()
    }
}

impl<T, F> Work for Task<T, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    fn run(self: Arc<Self>, _: u64) -> Ran {
        if let Some(Waiting { task, place }) = self.take() {
            quietly(|| drop(place));
            self.floor.store.settle(self.id, caught(task).map_err(TaskError::Panicked));
        }
        Ran::Done
    }

    fn broke(self: Arc<Self>) {
        self.floor.store.settle(self.id, Err(TaskError::NeverRan));
    }

    fn never(self: Arc<Self>, _: Never) {
        let waiting = self.take();
        self.floor.store.settle(self.id, Err(TaskError::NeverRan));
        quietly(|| drop(waiting));
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = INSIDE.with_borrow_mut(Vec::pop);
    }
}

impl<T> fmt::Debug for Floor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Floor")
            .field("workers", &self.workers)
            .field("waiting", &self.queue.waiting())
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
