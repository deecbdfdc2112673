//! Workers that exit instead of sleeping, as those without a thread do: no job is left when they
//! exit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;

use super::{Fixture, Job, JobOutcome, WorkerId, preempted};

impl Fixture {
    /// Creates a queue like [`new`](Self::new), with workers that exit instead of sleeping.
    fn with_async_workers(max_workers: u32) -> Arc<Self> {
        let fixture = Self::new(max_workers);
        fixture.is_async.store(true, Ordering::Relaxed);
        fixture
    }

    fn next(&self, worker: WorkerId) -> Option<Arc<dyn Job>> {
        match self.is_async.load(Ordering::Relaxed) {
            true => self.queue.try_next(worker).0,
            false => self.queue.next(worker).0.job,
        }
    }

    /// Runs jobs until the worker must exit.
    pub(super) fn serve(self: &Arc<Self>, worker: WorkerId) {
        while let Some(job) = self.next(worker) {
            if Arc::clone(&job).run(worker.epoch.0) == JobOutcome::StaleEpoch {
                self.spawn_if_needed(&self.queue.requeue(worker, job));
                // Its epoch ends only if another thread proceeds.
                thread::yield_now();
            }
        }
        self.exited.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn job_pushed_while_last_worker_exits_runs() {
    preempted(3, || {
        let fixture = Fixture::with_async_workers(1);
        let jobs = [fixture.job(), fixture.job()];
        let pushed = Arc::clone(&jobs[0]);
        fixture.spawn(move |fixture| assert!(fixture.push(&pushed)));
        assert!(fixture.push(&jobs[1]));
        fixture.close_after(2);
        assert_eq!(jobs.map(|job| job.counts()), [(1, 0); 2]);
    });
}

#[test]
fn job_of_async_worker_outlives_epoch_and_suspension() {
    preempted(2, || {
        let fixture = Fixture::with_async_workers(1);
        let job = fixture.job();
        assert!(fixture.push(&job));
        fixture.queue.suspend();
        let (epoch, spawns) = fixture.queue.resume();
        (0..spawns).for_each(|_| fixture.spawn_worker(epoch));
        let _ = fixture.start_epoch(1);
        fixture.close_after(1);
        assert_eq!(job.counts(), (1, 0));
    });
}
