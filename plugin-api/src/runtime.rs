//! The tokio runtime of a plugin, on which its async methods run. It is made on first use, and ends
//! with the plugin.
//!
//! A thread of the host must not wake a task itself: tokio would leave a thread-local value with a
//! destructor of this library on it, which keeps the library mapped until that thread exits. So
//! other threads push tasks into a queue and write a byte into a pipe, and a task of the runtime
//! takes them out.

use std::fmt;
use std::future::Future;
use std::io::{self, PipeWriter, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

/// Maximum number of worker threads.
const MAX_THREADS: usize = 4;

/// Time limit for blocking tasks when the plugin is stopped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

static CURRENT: Mutex<Option<Arc<PluginRuntime>>> = Mutex::new(None);

/// A runtime, and the queue of tasks for it.
struct PluginRuntime {
    /// Taken when the plugin is stopped.
    runtime: Mutex<Option<Runtime>>,
    queue: Arc<Queue>,
}

struct Queue {
    inner: Mutex<QueueInner>,
    signal: PipeWriter,
}

#[derive(Default)]
struct QueueInner {
    commands: Vec<Command>,
    /// Whether a byte is in the pipe, or about to be.
    is_signaled: bool,
    is_closed: bool,
}

enum Command {
    Run(Pin<Box<dyn Future<Output = ()> + Send>>, Arc<Task>),
    Cancel(Arc<Task>),
}

/// A task, which can be cancelled from any thread.
pub(crate) struct Task {
    queue: Arc<Queue>,
    /// Set when it runs.
    running: Mutex<Option<AbortHandle>>,
}

impl Task {
    /// Runs `future` on the plugin's runtime, which is made if there is none.
    ///
    /// # Errors
    ///
    /// If the runtime cannot be made.
    pub(crate) fn spawn(
        future: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let queue = current()?;
        let task = Arc::new(Self { queue: Arc::clone(&queue), running: Mutex::new(None) });
        queue.push(Command::Run(Box::pin(future), Arc::clone(&task)));
        Ok(task)
    }

    /// Drops the future at its next await, if it has not finished.
    pub(crate) fn cancel(self: Arc<Self>) {
        let queue = Arc::clone(&self.queue);
        queue.push(Command::Cancel(self));
    }
}

/// Ends the runtime of the plugin: drops its tasks, and waits for its threads.
pub(crate) fn shut_down() {
    let Some(current) = lock(&CURRENT).take() else { return };
    let runtime = lock(&current.runtime).take();
    let commands = {
        let mut inner = lock(&current.queue.inner);
        inner.is_closed = true;
        std::mem::take(&mut inner.commands)
    };
    drop(commands);
    if let Some(runtime) = runtime {
        runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Returns the queue of the current runtime.
fn current() -> io::Result<Arc<Queue>> {
    let mut current = lock(&CURRENT);
    if let Some(current) = &*current {
        return Ok(Arc::clone(&current.queue));
    }
    let started = PluginRuntime::start()?;
    let queue = Arc::clone(&started.queue);
    *current = Some(Arc::new(started));
    Ok(queue)
}

impl PluginRuntime {
    fn start() -> io::Result<Self> {
        let threads = available_parallelism().map_or(1, |threads| threads.get().min(MAX_THREADS));
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("hotbay-async")
            .enable_all()
            .build()?;
        let (reader, signal) = io::pipe()?;
        let reader = {
            let _context = runtime.enter();
            Receiver::from_owned_fd(reader.into())?
        };
        let queue = Arc::new(Queue { inner: Mutex::default(), signal });
        runtime.spawn(dispatch(Arc::clone(&queue), reader));
        Ok(Self { runtime: Mutex::new(Some(runtime)), queue })
    }
}

impl Queue {
    fn push(&self, command: Command) {
        let mut inner = lock(&self.inner);
        if inner.is_closed {
            drop(inner);
            // Its future is dropped here, so it completes as cancelled.
            return drop(command);
        }
        inner.commands.push(command);
        let is_signaled = std::mem::replace(&mut inner.is_signaled, true);
        drop(inner);
        if !is_signaled {
            // At most one byte is in the pipe, so this never blocks.
            let _ = (&self.signal).write(&[0]);
        }
    }
}

/// Spawns and cancels the tasks that other threads push.
async fn dispatch(queue: Arc<Queue>, reader: Receiver) {
    let mut byte = [0];
    loop {
        if reader.readable().await.is_err() {
            return;
        }
        match reader.try_read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        }
        let commands = {
            let mut inner = lock(&queue.inner);
            inner.is_signaled = false;
            std::mem::take(&mut inner.commands)
        };
        for command in commands {
            match command {
                Command::Run(future, task) => {
                    let handle = tokio::spawn(future).abort_handle();
                    *lock(&task.running) = Some(handle);
                }
                Command::Cancel(task) => {
                    if let Some(handle) = lock(&task.running).take() {
                        handle.abort();
                    }
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}
