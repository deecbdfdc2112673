//! How workers serve the queue: asleep while nothing waits, or, as those without a thread, at home;
//! nothing is left when they go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;

use super::{Job, JobOutcome, WorkerId, Yard, preempted};

impl Yard {
    /// As [`new`](Self::new), with workers that go home instead of sleeping.
    fn sleepless(max_workers: u32) -> Arc<Self> {
        let yard = Self::new(max_workers);
        yard.never_sleeps.store(true, Ordering::Relaxed);
        yard
    }

    fn next(&self, worker: WorkerId) -> Option<Arc<dyn Job>> {
        match self.never_sleeps.load(Ordering::Relaxed) {
            true => self.queue.try_next(worker),
            false => self.queue.next(worker).0.job,
        }
    }

    /// What a worker does until it goes home.
    pub(super) fn serve(self: &Arc<Self>, worker: WorkerId) {
        while let Some(job) = self.next(worker) {
            if Arc::clone(&job).run(worker.epoch.0) == JobOutcome::StaleEpoch {
                self.hire_if(&self.queue.requeue(worker, job));
                // Its epoch ends only when somebody else gets on.
                thread::yield_now();
            }
        }
        self.home.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_is_pushed_while_the_last_worker_goes_home_is_done() {
    preempted(3, || {
        let yard = Yard::sleepless(1);
        let pieces = [yard.piece(), yard.piece()];
        let pushed = Arc::clone(&pieces[0]);
        yard.spawn(move |yard| assert!(yard.push(&pushed)));
        assert!(yard.push(&pieces[1]));
        yard.close_after(2);
        assert_eq!(pieces.map(|piece| piece.became()), [(1, 0); 2]);
    });
}

#[test]
fn work_of_workers_that_never_sleep_outlives_their_epoch_and_a_suspended_queue() {
    preempted(2, || {
        let yard = Yard::sleepless(1);
        let piece = yard.piece();
        assert!(yard.push(&piece));
        yard.queue.suspend();
        let (epoch, spawns) = yard.queue.resume();
        (0..spawns).for_each(|_| yard.hire(epoch));
        let _ = yard.begin(1);
        yard.close_after(1);
        assert_eq!(piece.became(), (1, 0));
    });
}
