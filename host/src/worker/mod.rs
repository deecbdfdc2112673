//! Bounded work: a queue with a limit, threads that are joined, and a timer for what waits.
//! [`WorkerPool`] offers the same for closures of the application. Knows no plugins.

mod async_worker;
mod caller_runtime;
mod queue_inner;
mod timer;
mod worker_threads;
mod locks {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}
mod job;
mod pool_inner;
mod queue;
#[cfg(test)]
mod queue_tests;
mod result_store;
mod task;
mod worker_pool;

pub(crate) use async_worker::spawn_async_worker;
pub(crate) use caller_runtime::CallerRuntime;
pub(crate) use job::{DeadlineCheck, Job, JobFuture, JobOutcome, RejectReason, WaitLimits};
pub(crate) use queue::{NextJob, PushOutcome, Queue};
pub(crate) use queue_inner::{Epoch, QueueLimits, WorkerId};
pub(crate) use timer::{Timer, TimerEntry, TimerHandle};
pub(crate) use worker_threads::{Finish, OpeningThread, RunOutcome, WorkSource, WorkerThreads};

pub use pool_inner::{PoolLimits, TaskTicket};
pub use task::{Outcome, SubmitError, SubmitErrorKind, TaskError, TaskId};
pub use worker_pool::{Stopped, WorkerPool};

use task::QueuePermit;
