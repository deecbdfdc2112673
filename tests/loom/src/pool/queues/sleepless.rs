//! The queue as workers without a thread see it: they go home instead of sleeping, and nothing
//! is left when they do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Yard, preempted};

impl Yard {
    /// As [`new`](Self::new), with workers that go home instead of sleeping.
    fn sleepless(workers_max: u32) -> Arc<Self> {
        let yard = Self::new(workers_max);
        yard.never_sleeps.store(true, Ordering::Relaxed);
        yard
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
        let (epoch, hires) = yard.queue.resume();
        (0..hires).for_each(|_| yard.hire(epoch));
        let _ = yard.begin(1);
        yard.close_after(1);
        assert_eq!(piece.became(), (1, 0));
    });
}
