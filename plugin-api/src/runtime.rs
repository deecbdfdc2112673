//! The tokio runtime of a plugin, on which its async methods run. It is made on first use, and ends
//! with the plugin.
//!
//! A thread of the host must not use tokio, nor start a thread with std: both leave a thread-local
//! value with a destructor of this library on it, which keeps the library mapped until that thread
//! exits. So other threads push tasks into a queue, and the thread of the runtime, which the C library
//! starts, spawns them. It is not a worker of the runtime, so a task that blocks does not stop it.

use std::ffi::c_void;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
#[cfg(feature = "serve")]
use std::sync::OnceLock;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::available_parallelism;
use std::time::Duration;
use std::{fmt, ptr};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

use crate::panic::{catch_panic, drop_panic};

/// Maximum number of worker threads.
const MAX_THREADS: usize = 4;

/// Time limit for blocking tasks when the plugin is stopped.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

static CURRENT: Mutex<Option<PluginRuntime>> = Mutex::new(None);

/// A runtime on its thread, and the queue of tasks for it.
struct PluginRuntime {
    queue: Arc<Queue>,
    thread: libc::pthread_t,
}

/// Commands of other threads for the thread of a runtime.
struct Queue {
    inner: Mutex<QueueInner>,
    changed: Condvar,
    /// The runtime, for threads of a program.
    #[cfg(feature = "serve")]
    handle: OnceLock<Handle>,
}

#[derive(Default)]
struct QueueInner {
    commands: Vec<Command>,
    /// Whether the runtime runs, or the reason that it does not.
    started: Option<io::Result<()>>,
    /// Whether its thread waits for a command.
    is_waiting: bool,
    is_closed: bool,
}

enum Command {
    Run(Pin<Box<dyn Future<Output = ()> + Send>>, Arc<Task>),
    Cancel(Arc<Task>),
    Wake(Waker),
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

/// Wakes a future of the plugin from a thread of the host: on the runtime, if there is one, since
/// its wakers use tokio.
pub(crate) fn wake(waker: Waker) {
    let queue = lock(&CURRENT).as_ref().map(|current| Arc::clone(&current.queue));
    match queue {
        Some(queue) => queue.push(Command::Wake(waker)),
        None => waker.wake(),
    }
}

/// Ends the runtime of the plugin: drops its tasks, and waits for its threads.
pub(crate) fn shut_down() {
    let Some(PluginRuntime { queue, thread }) = lock(&CURRENT).take() else { return };
    queue.close();
    // SAFETY: the thread was started by `start_thread`, and is joined once.
    unsafe { libc::pthread_join(thread, ptr::null_mut()) };
}

/// Returns the runtime, which is made if there is none. Only for programs, whose threads may use
/// tokio.
///
/// # Errors
///
/// If it cannot be made.
#[cfg(feature = "serve")]
pub(crate) fn handle() -> io::Result<Handle> {
    current()?.handle.get().cloned().ok_or_else(|| io::Error::other("it has not started"))
}

/// Returns the queue of the current runtime.
fn current() -> io::Result<Arc<Queue>> {
    let mut current = lock(&CURRENT);
    if let Some(current) = &*current {
        return Ok(Arc::clone(&current.queue));
    }
    let queue = Arc::new(Queue {
        inner: Mutex::default(),
        changed: Condvar::new(),
        #[cfg(feature = "serve")]
        handle: OnceLock::new(),
    });
    let thread = start_thread(Arc::clone(&queue))?;
    let started = {
        let inner = lock(&queue.inner);
        let is_starting = |inner: &mut QueueInner| inner.started.is_none();
        let inner = queue.changed.wait_while(inner, is_starting);
        inner.unwrap_or_else(PoisonError::into_inner).started.take()
    };
    match started {
        Some(Ok(())) => {
            *current = Some(PluginRuntime { queue: Arc::clone(&queue), thread });
            Ok(queue)
        }
        failed => {
            // SAFETY: as in `shut_down`.
            unsafe { libc::pthread_join(thread, ptr::null_mut()) };
            Err(failed.and_then(Result::err).unwrap_or_else(|| io::Error::other("it panicked")))
        }
    }
}

/// Starts the thread of a runtime.
fn start_thread(queue: Arc<Queue>) -> io::Result<libc::pthread_t> {
    extern "C" fn run(queue: *mut c_void) -> *mut c_void {
        // SAFETY: the pointer of `start_thread`, which passes it on.
        let queue = unsafe { Arc::from_raw(queue.cast_const().cast::<Queue>()) };
        if catch_panic(|| run_runtime(&queue)).is_err() {
            queue.report(Err(io::Error::other("it panicked")));
            queue.close();
        }
        ptr::null_mut()
    }

    let queue = Arc::into_raw(queue).cast_mut().cast::<c_void>();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: the pointers are valid, and `run` does not unwind.
    let code = unsafe { libc::pthread_create(thread.as_mut_ptr(), ptr::null(), run, queue) };
    if code != 0 {
        // SAFETY: no thread has it.
        drop(unsafe { Arc::from_raw(queue.cast_const().cast::<Queue>()) });
        return Err(io::Error::from_raw_os_error(code));
    }
    // SAFETY: the function wrote it, since it succeeded.
    Ok(unsafe { thread.assume_init() })
}

/// Runs a runtime until the plugin is stopped.
fn run_runtime(queue: &Queue) {
    let runtime = match start() {
        Ok(runtime) => runtime,
        Err(error) => return queue.report(Err(error)),
    };
    #[cfg(feature = "serve")]
    let _ = queue.handle.set(runtime.handle().clone()); // The queue is new, so this is the first.
    queue.report(Ok(()));
    while let Some(commands) = queue.wait_for_commands() {
        commands.into_iter().for_each(|command| command.execute(runtime.handle()));
    }
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
}

fn start() -> io::Result<Runtime> {
    let threads = available_parallelism().map_or(1, |threads| threads.get().min(MAX_THREADS));
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("hotbay-async")
        .enable_all()
        .build()
}

impl Queue {
    /// Reports whether the runtime was started.
    fn report(&self, started: io::Result<()>) {
        lock(&self.inner).started.get_or_insert(started);
        self.changed.notify_all();
    }

    /// Waits for commands, and takes them. `None` if the queue is closed.
    fn wait_for_commands(&self) -> Option<Vec<Command>> {
        let mut inner = lock(&self.inner);
        while inner.commands.is_empty() {
            if inner.is_closed {
                return None;
            }
            inner.is_waiting = true;
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.is_waiting = false;
        }
        Some(std::mem::take(&mut inner.commands))
    }

    fn push(&self, command: Command) {
        let mut inner = lock(&self.inner);
        if inner.is_closed {
            drop(inner);
            // Its future is dropped here, so it completes as cancelled.
            return drop(command);
        }
        inner.commands.push(command);
        let is_waiting = std::mem::take(&mut inner.is_waiting);
        drop(inner);
        if is_waiting {
            self.changed.notify_all();
        }
    }

    /// Accepts no more commands, and drops those that were not taken.
    fn close(&self) {
        let commands = {
            let mut inner = lock(&self.inner);
            inner.is_closed = true;
            std::mem::take(&mut inner.commands)
        };
        self.changed.notify_all();
        // Not under the lock: the futures complete as cancelled.
        drop(commands);
    }
}

impl Command {
    fn execute(self, runtime: &Handle) {
        match self {
            Self::Run(future, task) => {
                let handle = runtime.spawn(future).abort_handle();
                *lock(&task.running) = Some(handle);
            }
            // A waker of another executor may panic.
            Self::Wake(waker) => _ = drop_panic(|| waker.wake()),
            Self::Cancel(task) => {
                if let Some(handle) = lock(&task.running).take() {
                    handle.abort();
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
