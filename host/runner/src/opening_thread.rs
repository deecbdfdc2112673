//! The thread that opens the library, starts it and shuts it down. It lives as long as the process,
//! since some allocators bind memory to the thread that opened their library.

use std::sync::mpsc::{Sender, channel};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// The thread; it exits with the process.
pub(crate) struct OpeningThread(Sender<Job>);

impl OpeningThread {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (sender, jobs) = channel::<Job>();
        let run = move || jobs.into_iter().for_each(|job| job());
        thread::Builder::new().name("hotbay-library".to_owned()).spawn(run)?;
        Ok(Self(sender))
    }

    /// Runs a job and waits for it; `None` if it panicked.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, result) = channel();
        let job = move || _ = sender.send(job());
        self.0.send(Box::new(job)).ok()?;
        result.recv().ok()
    }
}
