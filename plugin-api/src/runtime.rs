//! The tokio runtime of a plugin, on which its async methods run. It is made on first use, and ends
//! with the plugin.
//!
//! A thread of the host must not use tokio, nor start a thread with std: both leave a thread-local
//! value with a destructor of this library on it, which keeps the library mapped until that thread
//! exits. So other threads push tasks into a queue and write a byte into a pipe, and a task of the
//! runtime takes them out. The runtime lives on a thread that the C library starts.

use std::ffi::c_void;
use std::future::Future;
use std::io::{self, PipeWriter, Write};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread::available_parallelism;
use std::time::Duration;
use std::{fmt, ptr};

use tokio::net::unix::pipe::Receiver;
use tokio::runtime::{Builder, Runtime};
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

/// Where the thread of a runtime waits until the plugin is stopped, and reports that it has started.
#[derive(Default)]
struct Lifecycle {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The pipe that wakes the runtime, once it runs; or the reason that it does not.
    started: Option<io::Result<PipeWriter>>,
    is_stopped: bool,
}

struct Queue {
    inner: Mutex<QueueInner>,
    lifecycle: Lifecycle,
    signal: OnceLock<PipeWriter>,
    /// The runtime, for threads of a program.
    #[cfg(feature = "serve")]
    handle: OnceLock<tokio::runtime::Handle>,
}

#[derive(Default)]
struct QueueInner {
    commands: Vec<Command>,
    /// Whether a byte is in the pipe or about to be, or the commands are taken again without one.
    is_signaled: bool,
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
    let commands = {
        let mut inner = lock(&queue.inner);
        inner.is_closed = true;
        std::mem::take(&mut inner.commands)
    };
    // Not under the lock: the futures complete as cancelled.
    drop(commands);
    lock(&queue.lifecycle.state).is_stopped = true;
    queue.lifecycle.changed.notify_all();
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
pub(crate) fn handle() -> io::Result<tokio::runtime::Handle> {
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
        lifecycle: Lifecycle::default(),
        signal: OnceLock::new(),
        #[cfg(feature = "serve")]
        handle: OnceLock::new(),
    });
    let thread = start_thread(Arc::clone(&queue))?;
    let started = {
        let state = lock(&queue.lifecycle.state);
        let is_starting = |state: &mut State| state.started.is_none();
        let state = queue.lifecycle.changed.wait_while(state, is_starting);
        state.unwrap_or_else(PoisonError::into_inner).started.take()
    };
    match started {
        Some(Ok(signal)) => {
            // The queue is new, so this is the first.
            let _ = queue.signal.set(signal);
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
            queue.lifecycle.report(Err(io::Error::other("it panicked")));
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
fn run_runtime(queue: &Arc<Queue>) {
    let lifecycle = &queue.lifecycle;
    let runtime = match start(queue) {
        Ok((runtime, signal)) => {
            lifecycle.report(Ok(signal));
            runtime
        }
        Err(error) => return lifecycle.report(Err(error)),
    };
    let state = lock(&lifecycle.state);
    let stopped = lifecycle.changed.wait_while(state, |state| !state.is_stopped);
    drop(stopped);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
}

fn start(queue: &Arc<Queue>) -> io::Result<(Runtime, PipeWriter)> {
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
    #[cfg(feature = "serve")]
    let _ = queue.handle.set(runtime.handle().clone()); // The queue is new, so this is the first.
    runtime.spawn(dispatch(Arc::clone(queue), reader));
    Ok((runtime, signal))
}

impl Lifecycle {
    /// Reports whether the runtime was started.
    fn report(&self, started: io::Result<PipeWriter>) {
        lock(&self.state).started.get_or_insert(started);
        self.changed.notify_all();
    }
}

impl Queue {
    /// Takes the commands; if there are none, the next one will be signaled.
    fn take_commands(&self) -> Option<Vec<Command>> {
        let mut inner = lock(&self.inner);
        if inner.commands.is_empty() {
            inner.is_signaled = false;
            return None;
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
        let is_signaled = std::mem::replace(&mut inner.is_signaled, true);
        drop(inner);
        if !is_signaled && let Some(mut signal) = self.signal.get() {
            // At most one byte is in the pipe, so this never blocks.
            let _ = signal.write(&[0]);
        }
    }
}

/// Spawns and cancels the tasks that other threads push.
async fn dispatch(queue: Arc<Queue>, reader: Receiver) {
    let mut byte = [0];
    loop {
        while let Some(commands) = queue.take_commands() {
            for command in commands {
                command.execute();
            }
            // Threads that push meanwhile need no system call.
            tokio::task::yield_now().await;
        }
        if reader.readable().await.is_err() {
            return;
        }
        match reader.try_read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

impl Command {
    fn execute(self) {
        match self {
            Self::Run(future, task) => {
                let handle = tokio::spawn(future).abort_handle();
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
