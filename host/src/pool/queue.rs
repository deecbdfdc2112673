//! A queue of work with a limit, and the sleep of the workers that wait for it. Workers are
//! hired for an epoch; when the next one begins, they go home.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::sync::lock;

/// Something that a worker does.
pub(crate) trait Work: Send {
    /// Does it, for a worker of `generation`.
    fn run(self: Box<Self>, generation: u64);

    /// Its turn never comes: whoever waits is to be told.
    fn never(self: Box<Self>);
}

/// A bounded queue that many push to and many take from, first in, first out.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
}

struct Inner {
    work: VecDeque<Box<dyn Work>>,
    work_max: usize,
    epoch: Epoch,
    /// Workers that were hired for this epoch.
    workers: u32,
    workers_max: u32,
    /// Those of them that sleep in `take`.
    idle: usize,
    door: Door,
}

/// Whether work comes in, and goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// In and out.
    Open,
    /// Only out.
    Finishing,
    /// Neither.
    Closed,
}

/// One period of a queue, in which the same workers serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// What became of work that was to be queued.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for the workers that there are.
    Waits,
    /// It waits, and a worker is to be started for this epoch.
    Hire(Epoch),
    /// The queue is full; the work was dropped.
    Full,
    /// The queue is closed; the work was dropped.
    Closed,
}

impl Queue {
    /// A queue without workers that holds at most `work_max` pieces.
    pub(crate) fn new(work_max: usize) -> Self {
        let inner = Inner {
            work: VecDeque::new(),
            work_max,
            epoch: Epoch(0),
            workers: 0,
            workers_max: 0,
            idle: 0,
            door: Door::Open,
        };
        Self { inner: Mutex::new(inner), filled: Condvar::new() }
    }

    /// Puts work at the end, without waiting.
    pub(crate) fn push(&self, work: Box<dyn Work>) -> Pushed {
        let mut inner = lock(&self.inner);
        if inner.door != Door::Open {
            return Pushed::Closed;
        }
        if inner.work.len() >= inner.work_max {
            return Pushed::Full;
        }
        inner.work.push_back(work);
        self.pushed(inner)
    }

    /// Puts work back in its place at the front, however full the queue is.
    pub(crate) fn hand_back(&self, work: Box<dyn Work>) -> Pushed {
        let mut inner = lock(&self.inner);
        if inner.door == Door::Closed {
            drop(inner);
            work.never();
            return Pushed::Closed;
        }
        inner.work.push_front(work);
        self.pushed(inner)
    }

    fn pushed(&self, mut inner: std::sync::MutexGuard<'_, Inner>) -> Pushed {
        // A sleeper that was woken counts as idle until it runs, so what waits is counted too.
        let pushed = if inner.idle < inner.work.len() && inner.workers < inner.workers_max {
            inner.workers += 1;
            Pushed::Hire(inner.epoch)
        } else {
            Pushed::Waits
        };
        drop(inner);
        self.filled.notify_one();
        pushed
    }

    /// Takes the first work for a worker of `epoch`, sleeping until there is some; none once
    /// the epoch is over, the queue is closed, or it is finished and empty.
    pub(crate) fn take(&self, epoch: Epoch) -> Option<Box<dyn Work>> {
        let mut inner = lock(&self.inner);
        loop {
            if inner.door == Door::Closed || inner.epoch != epoch {
                return None;
            }
            if let Some(work) = inner.work.pop_front() {
                return Some(work);
            }
            if inner.door == Door::Finishing {
                return None;
            }
            inner.idle += 1;
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
            if inner.epoch == epoch {
                inner.idle -= 1;
            }
        }
    }

    /// A worker that was to be started for `epoch` could not be. If there is no other, the work
    /// that was pushed last comes back, because nobody would do it.
    pub(crate) fn not_hired(&self, epoch: Epoch) -> Option<Box<dyn Work>> {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return None;
        }
        inner.workers -= 1;
        if inner.workers > 0 { None } else { inner.work.pop_back() }
    }

    /// Begins an epoch with at most so many workers and so much work; the workers before it go
    /// home. Answers with how many are to be started now for the work that waits.
    pub(crate) fn begin(&self, workers_max: u32, work_max: usize) -> (Epoch, u32) {
        let mut inner = lock(&self.inner);
        inner.epoch = Epoch(inner.epoch.0 + 1);
        inner.work_max = work_max;
        inner.workers_max = workers_max;
        inner.workers = u32::try_from(inner.work.len()).unwrap_or(u32::MAX).min(workers_max);
        inner.idle = 0;
        let begun = (inner.epoch, inner.workers);
        drop(inner);
        self.filled.notify_all();
        begun
    }

    /// Lets no more work in; the workers go home once none is left.
    pub(crate) fn finish(&self) {
        let mut inner = lock(&self.inner);
        if inner.door == Door::Open {
            inner.door = Door::Finishing;
        }
        drop(inner);
        self.filled.notify_all();
    }

    /// Closes the queue, wakes the workers, and tells what waits that it never runs.
    pub(crate) fn close(&self) {
        let work = {
            let mut inner = lock(&self.inner);
            inner.door = Door::Closed;
            std::mem::take(&mut inner.work)
        };
        self.filled.notify_all();
        for work in work {
            work.never();
        }
    }

    /// Pieces of work that wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.inner).work.len()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::thread;

    type Said = (u32, &'static str);

    #[derive(Clone)]
    struct Saying {
        number: u32,
        said: mpsc::Sender<Said>,
    }

    impl Work for Saying {
        fn run(self: Box<Self>, _: u64) {
            self.said.send((self.number, "run")).expect("a receiver");
        }

        fn never(self: Box<Self>) {
            self.said.send((self.number, "never")).expect("a receiver");
        }
    }

    fn fixture() -> (Arc<Queue>, impl Fn(u32) -> Box<Saying>, mpsc::Receiver<Said>) {
        let (said, heard) = mpsc::channel();
        let work = move |number| Box::new(Saying { number, said: said.clone() });
        (Arc::new(Queue::new(3)), work, heard)
    }

    #[test]
    fn work_runs_in_order_and_what_is_left_at_the_close_is_told() {
        let (queue, work, heard) = fixture();
        let (epoch, hires) = queue.begin(1, 3);
        assert_eq!(hires, 0);
        assert_eq!(queue.push(work(1)), Pushed::Hire(epoch));
        assert_eq!(queue.push(work(2)), Pushed::Waits);
        assert_eq!(queue.push(work(3)), Pushed::Waits);
        assert_eq!(queue.push(work(4)), Pushed::Full);
        queue.take(epoch).expect("work").run(0);
        queue.close();
        assert!(queue.take(epoch).is_none());
        assert_eq!(queue.push(work(5)), Pushed::Closed);
        assert_eq!(queue.hand_back(work(6)), Pushed::Closed);
        let told: Vec<_> = heard.try_iter().collect();
        assert_eq!(told, [(1, "run"), (2, "never"), (3, "never"), (6, "never")]);
    }

    #[test]
    fn a_finished_queue_lets_nothing_in_and_what_waits_still_runs() {
        let (queue, work, heard) = fixture();
        let (epoch, _) = queue.begin(1, 3);
        assert_eq!(queue.push(work(1)), Pushed::Hire(epoch));
        queue.finish();
        assert_eq!(queue.push(work(2)), Pushed::Closed);
        queue.take(epoch).expect("work").run(0);
        assert!(queue.take(epoch).is_none(), "nothing is left");
        queue.close();
        queue.finish();
        assert_eq!(queue.hand_back(work(3)), Pushed::Closed, "a closed queue stays closed");
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(1, "run"), (3, "never")]);
    }

    #[test]
    fn work_that_is_handed_back_keeps_its_place_and_finds_workers_of_the_next_epoch() {
        let (queue, work, heard) = fixture();
        let (first, _) = queue.begin(1, 3);
        assert_eq!(queue.push(work(1)), Pushed::Hire(first));
        assert_eq!(queue.push(work(2)), Pushed::Waits);
        let back = queue.take(first).expect("work");
        let (second, hires) = queue.begin(2, 3);
        assert_eq!(hires, 1);
        assert!(queue.take(first).is_none(), "the workers before go home");
        assert_eq!(queue.hand_back(back), Pushed::Hire(second));
        queue.take(second).expect("work").run(0);
        queue.take(second).expect("work").run(0);
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [(1, "run"), (2, "run")]);
    }

    #[test]
    fn no_work_is_lost_or_done_twice_by_many_workers_of_changing_epochs() {
        let (queue, work, heard) = fixture();
        let mut workers = Vec::new();
        let mut hire = |epoch| {
            let queue = Arc::clone(&queue);
            workers.push(thread::spawn(move || {
                while let Some(work) = queue.take(epoch) {
                    work.run(0);
                }
            }));
        };
        for number in 0..1000 {
            if number % 100 == 0 {
                let (epoch, hires) = queue.begin(2, usize::MAX);
                (0..hires).for_each(|_| hire(epoch));
            }
            if let Pushed::Hire(epoch) = queue.push(work(number)) {
                hire(epoch);
            }
        }
        let mut seen: Vec<_> = heard.iter().take(1000).map(|(number, _)| number).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..1000));
        queue.close();
        for worker in workers {
            worker.join().expect("no panic");
        }
    }
}
