//! Bounded work: a queue with a limit, and threads that are joined. Knows no plugins.
//! [`WorkerPool`] is that for anybody's closures.

mod crew;
mod floor;
mod locks {
    pub(super) use std::sync::{Mutex, MutexGuard};
}
mod park;
mod places;
mod queue;
mod quiet;
mod store;
mod submit;
mod task;
mod ticket;
mod worker_pool;

pub(crate) use crew::{Crew, Errand};
pub(crate) use queue::{Epoch, Pushed, Queue, Work};
pub(crate) use ticket::{Teller, Ticket, ticket};

pub use submit::{SubmitError, SubmitErrorKind};
pub use task::{Outcome, TaskError, TaskId, TaskTicket};
pub use worker_pool::{PoolLimits, Stopped, WorkerPool};

use places::Place;
