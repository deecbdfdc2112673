//! A queue of tasks with a limit, and the sleep of the workers that wait for one.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::sync::lock;

/// Something that a worker does.
pub(crate) type Task = Box<dyn FnOnce(Turn) + Send>;

/// Whether a task's turn has come, or it never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Run.
    Run,
    /// The queue was closed before the task's turn; it is to tell whoever waits.
    Never,
}

/// A bounded queue that many push to and many pop from, first in, first out.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
    tasks_max: usize,
}

struct Inner {
    tasks: VecDeque<Task>,
    /// Workers that sleep in `pop`.
    idle: usize,
    open: bool,
}

/// What became of a task that was to be queued.
#[must_use]
pub(crate) enum Pushed {
    /// A worker that slept takes it.
    ToSleeper,
    /// It waits; one more worker would help.
    Waits,
    /// The queue is full; the task is dropped.
    Full,
    /// The queue is closed; the task is dropped.
    Closed,
}

impl Queue {
    /// A queue that holds at most `tasks_max` tasks.
    pub(crate) fn new(tasks_max: usize) -> Self {
        let inner = Inner { tasks: VecDeque::new(), idle: 0, open: true };
        Self { inner: Mutex::new(inner), filled: Condvar::new(), tasks_max }
    }

    /// Puts a task at the end, without waiting.
    pub(crate) fn push(&self, task: Task) -> Pushed {
        let mut inner = lock(&self.inner);
        if !inner.open {
            return Pushed::Closed;
        }
        if inner.tasks.len() >= self.tasks_max {
            return Pushed::Full;
        }
        inner.tasks.push_back(task);
        // A sleeper that was woken counts as idle until it runs, so tasks are counted too.
        let sleeper = inner.idle >= inner.tasks.len();
        let wake = inner.idle > 0;
        drop(inner);
        if wake {
            self.filled.notify_one();
        }
        if sleeper { Pushed::ToSleeper } else { Pushed::Waits }
    }

    /// Takes the first task, sleeping until there is one; none once the queue is closed.
    pub(crate) fn pop(&self) -> Option<Task> {
        let mut inner = lock(&self.inner);
        loop {
            if !inner.open {
                return None;
            }
            if let Some(task) = inner.tasks.pop_front() {
                return Some(task);
            }
            inner.idle += 1;
            inner = self.filled.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.idle -= 1;
        }
    }

    /// Closes the queue, wakes the workers, and tells the tasks that wait that they never run.
    pub(crate) fn close(&self) {
        let tasks = {
            let mut inner = lock(&self.inner);
            inner.open = false;
            std::mem::take(&mut inner.tasks)
        };
        self.filled.notify_all();
        for task in tasks {
            task(Turn::Never);
        }
    }

    /// Tasks that wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.inner).tasks.len()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("waiting", &self.waiting())
            .field("tasks_max", &self.tasks_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};
    use std::thread;

    fn saying(sender: &mpsc::Sender<(u32, Turn)>, number: u32) -> Task {
        let sender = sender.clone();
        Box::new(move |turn| sender.send((number, turn)).expect("a receiver"))
    }

    #[test]
    fn tasks_run_in_order_and_those_left_at_the_close_are_told() {
        let queue = Queue::new(3);
        let (sender, receiver) = mpsc::channel();
        for number in 1..=3 {
            assert!(matches!(queue.push(saying(&sender, number)), Pushed::Waits));
        }
        assert!(matches!(queue.push(saying(&sender, 4)), Pushed::Full));
        queue.pop().expect("a task")(Turn::Run);
        queue.close();
        assert!(queue.pop().is_none());
        assert!(matches!(queue.push(saying(&sender, 5)), Pushed::Closed));
        let told: Vec<_> = receiver.try_iter().collect();
        assert_eq!(told, [(1, Turn::Run), (2, Turn::Never), (3, Turn::Never)]);
    }

    #[test]
    fn no_task_is_lost_or_run_twice_by_many_workers() {
        let queue = Arc::new(Queue::new(usize::MAX));
        let (sender, receiver) = mpsc::channel();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    while let Some(task) = queue.pop() {
                        task(Turn::Run);
                    }
                })
            })
            .collect();
        for number in 0..1000 {
            let _ = queue.push(saying(&sender, number));
        }
        let mut seen: Vec<_> = receiver.iter().take(1000).map(|(number, _)| number).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..1000));
        queue.close();
        for worker in workers {
            worker.join().expect("no panic");
        }
    }
}
