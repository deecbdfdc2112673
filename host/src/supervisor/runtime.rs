//! The threads that all processes of one host share, made with the first of them.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of the runtime: one goes on where another waits for the system, as in a fork.
const THREADS: usize = 2;

/// The runtime of a host's processes.
#[derive(Default)]
pub(crate) struct Processes {
    runtime: Mutex<Option<Runtime>>,
}

impl Processes {
    /// The runtime; made if there is none.
    pub(crate) fn runtime(&self) -> io::Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let made = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("hotbay-process")
            .enable_all()
            .build()?;
        let handle = runtime.insert(made).handle().clone();
        handle.spawn_blocking(|| super::folder::sweep(&std::env::temp_dir()));
        Ok(handle)
    }
}

impl Drop for Processes {
    /// By now every process has been ended; a runtime must not be waited for inside another.
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").finish_non_exhaustive()
    }
}
