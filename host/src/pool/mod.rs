//! Bounded work: a queue with a limit, threads that are joined, and a clock for what waits.
//! Knows no plugins. [`WorkerPool`] is that for anybody's closures.

mod clock;
mod crew;
mod floor;
mod line;
mod locks {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}
mod opening_thread;
mod park;
mod places;
mod queue;
mod queue_now;
#[cfg(test)]
mod queue_tests;
mod quiet;
mod store;
mod submit;
mod task;
mod task_worker;
mod ticket;
mod work;
mod worker_pool;

pub(crate) use clock::{Clock, Hand, Timed};
pub(crate) use crew::{Crew, Employer, Errand};
pub(crate) use line::{Epoch, QueueLimits, Seat};
pub(crate) use opening_thread::{Finish, OpeningThread};
pub(crate) use queue::{Pushed, Queue, Taken};
pub(crate) use task_worker::hire_on;
pub(crate) use ticket::{Teller, Ticket, ticket};
pub(crate) use work::{Never, Overrun, Patience, Ran, RunLater, Work};

pub use submit::{SubmitError, SubmitErrorKind};
pub use task::{Outcome, TaskError, TaskId, TaskTicket};
pub use worker_pool::{PoolLimits, Stopped, WorkerPool};

use places::Place;
