//! Threads on which iterators of a plugin make items for callers that do not block. Their number is
//! limited: streams wait for their turns, and no queued stream is kept alive.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use crate::panic::drop_panic;
use crate::sync::lock;
use crate::worker::WorkerThreads;

/// A stream whose items a thread makes.
pub(crate) trait MakeItems: Send + Sync {
    /// Makes some items.
    fn make_items(self: Arc<Self>) -> Turn;
}

/// What follows a turn of a stream.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It can make more items at once, after the others.
    Again,
    Done,
}

/// The threads that make items of a generation's streams.
pub(crate) struct StreamThreads {
    max: u32,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    threads: u32,
    waiting: VecDeque<Weak<dyn MakeItems>>,
}

impl Queue {
    fn push(&mut self, stream: Weak<dyn MakeItems>) {
        // Dropped ones are removed when the queue would grow.
        if self.waiting.len() == self.waiting.capacity() {
            self.waiting.retain(|stream| stream.strong_count() > 0);
        }
        self.waiting.push_back(stream);
    }
}

impl StreamThreads {
    pub(super) fn new(max: u32) -> Self {
        Self { max: max.max(1), queue: Mutex::default() }
    }

    /// Lets a thread make items of a stream, at once or when another thread is free. Fails if no
    /// thread runs or can be started.
    pub(crate) fn make_items(
        self: &Arc<Self>,
        threads: &WorkerThreads,
        stream: Weak<dyn MakeItems>,
    ) -> io::Result<()> {
        let mut queue = lock(&self.queue);
        queue.push(stream);
        if queue.threads >= self.max {
            return Ok(());
        }
        let this = Arc::clone(self);
        match threads.spawn(move || this.run()) {
            Ok(_) => queue.threads += 1,
            Err(error) if queue.threads == 0 => {
                queue.waiting.pop_back();
                return Err(error);
            }
            // A running thread takes it from the queue.
            Err(_) => {}
        }
        Ok(())
    }

    /// Makes items of streams until none waits.
    fn run(&self) {
        loop {
            let stream = {
                let mut queue = lock(&self.queue);
                match queue.waiting.pop_front() {
                    Some(stream) => stream,
                    None => return queue.threads -= 1,
                }
            };
            let Some(making) = stream.upgrade() else { continue };
            if drop_panic(|| making.make_items()) == Some(Turn::Again) {
                lock(&self.queue).push(stream);
            }
        }
    }
}

impl std::fmt::Debug for StreamThreads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamThreads").finish_non_exhaustive()
    }
}
