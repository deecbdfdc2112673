//! One load of one plugin: what runs its calls, the threads it runs on, and what became of it.
//! Decides nothing about when it starts or ends.

mod async_call;
mod backend;
mod call_checks;
mod deferred_unloads;
mod lease;
mod policy;
pub(crate) mod recovery;
pub(crate) mod state;
pub(crate) mod unload;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotbay_plugin::Fault;
#[cfg(unix)]
use hotbay_plugin::Output;
use hotbay_plugin::text::{CONTENT_TYPE_BYTES_MAX, Lines, escaped, is_escaped, start_of};
use semver::Version;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::boundary::services::Registration;
#[cfg(unix)]
use crate::call::Reply;
use crate::call::{Failure, Request};
use crate::error::{Error, ErrorKind};
use crate::event::{EventBus, HostEvent};
use crate::id::{GenerationId, PluginName};
use crate::pool::{Epoch, WorkSource, WorkerThreads, spawn_async_worker};
use crate::sync::{ReturnSlot, lock};
pub(crate) use backend::{Backend, UnloadLeftovers};
pub(crate) use deferred_unloads::{DeferredUnloads, RetainReason, RetainedEntry};
pub(crate) use lease::{CallArgs, InstanceRef, is_in_plugin_call, next_call_id};
pub(crate) use policy::CallPolicy;
use state::State;

/// How long calls that run as tasks may take to end that are cut off.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// One load of one plugin: everything but what runs its calls, which the token holds.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) name: PluginName,
    pub(crate) id: GenerationId,
    pub(crate) version: Version,
    pub(crate) limits: IoLimits,
    pub(crate) policy: Arc<CallPolicy>,
    /// Why its library is to stay mapped whatever happens, if anything says so.
    pub(crate) retain_reason: Option<String>,
    pub(crate) workers: WorkerThreads,
    /// Where its pooled calls run as tasks; none: on threads of the crew.
    pub(crate) runtime: Option<Handle>,
    /// Ends the calls that run as tasks.
    abort: CancellationToken,
    pub(crate) events: EventBus,
    current: AtomicBool,
    state: Mutex<State>,
    /// Where the last lease leaves the body.
    returned: ReturnSlot<Backend>,
    /// Answers the plugin until it is stopped.
    services: Mutex<Option<Registration>>,
}

/// Bytes that one call may take and give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IoLimits {
    pub(crate) max_input_bytes: u64,
    pub(crate) max_output_bytes: u64,
}

/// What a generation is made of, besides its body.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: PluginName,
    pub(crate) id: GenerationId,
    pub(crate) version: Version,
    pub(crate) limits: IoLimits,
    pub(crate) policy: Arc<CallPolicy>,
    pub(crate) retain_reason: Option<String>,
    pub(crate) workers: WorkerThreads,
    /// Where pooled calls run as tasks; none: on threads of the crew.
    pub(crate) runtime: Option<Handle>,
    pub(crate) events: EventBus,
    pub(crate) services: Option<Registration>,
}

impl Generation {
    /// What it is doing now.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Starts a worker for the calls that wait at `employer`.
    pub(crate) fn spawn_worker(&self, source: Arc<dyn WorkSource>, epoch: Epoch) -> io::Result<()> {
        match &self.runtime {
            Some(tasks) if source.supports_async() => {
                spawn_async_worker(tasks, source, epoch, self.id.get());
                Ok(())
            }
            _ => self.workers.spawn_worker(source, epoch, self.id.get()),
        }
    }

    /// Waits until calls that run as tasks are to end.
    pub(crate) fn calls_aborted(&self) -> WaitForCancellationFuture<'_> {
        self.abort.cancelled()
    }

    /// Ends the calls that run as tasks.
    pub(crate) fn abort_calls(&self) {
        self.abort.cancel();
    }

    /// The body, once the last lease has left it. Calls that run as tasks end after
    /// `drain_timeout`: unlike those that are in a library, they can.
    fn drained(&self, drain_timeout: Duration) -> Option<Backend> {
        let backend = self.returned.take(drain_timeout);
        if backend.is_some() || self.runtime.is_none() {
            return backend;
        }
        self.abort_calls();
        self.returned.take(ABORT_TIMEOUT)
    }

    /// Whether it is the one that new calls go to.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    pub(crate) fn set_current(&self, current: bool) {
        self.current.store(current, Ordering::Relaxed);
    }

    /// Whether the last lease has left the instance.
    pub(crate) fn has_drained(&self) -> bool {
        self.returned.is_filled()
    }

    /// The body, once the last lease has left it, at most after `wait_max`.
    pub(crate) fn take_backend(&self, timeout: Duration) -> Option<Backend> {
        self.returned.take(timeout)
    }

    /// Tells the board of a panic.
    pub(crate) fn emit_fault(&self, fault: Fault, own_thread: bool) {
        self.events.emit(HostEvent::Faulted {
            plugin: self.name.clone(),
            generation: self.id,
            fault,
            own_thread,
        });
    }

    fn set_state(&self, state: State) {
        *lock(&self.state) = state;
    }

    #[cold]
    fn error_from(&self, failure: Failure) -> Error {
        if let Failure::Panic(fault) = &failure {
            self.emit_fault(fault.clone(), false);
        }
        error_of(failure).of(&self.name).in_generation(self.id)
    }

    /// As [`error_from`](Self::error_from), for a call with this deadline. Once that has passed, an error
    /// that the plugin returns, such as for a call that it cancelled, is a missed deadline.
    #[cold]
    fn error_from_by(&self, deadline: Option<Instant>, failure: Failure) -> Error {
        match failure {
            Failure::Error(own) if deadline.is_some_and(|late| late <= Instant::now()) => {
                let message = "did not answer before the deadline; it returned an error after it";
                let error =
                    Error::new(ErrorKind::DeadlineExceeded, message).caused_by(own.to_string());
                error.of(&self.name).in_generation(self.id)
            }
            failure => self.error_from(failure),
        }
    }

    /// Refuses what is too large to be sent.
    fn check_input(&self, request: &Request<'_>) -> Result<(), Error> {
        let found = request.as_bytes().len();
        let fits = found as u64 <= self.limits.max_input_bytes;
        if fits { Ok(()) } else { Err(self.input_too_large(found)) }
    }

    /// Fills `reply` with what a process answered.
    #[cfg(unix)]
    fn fill_reply(
        &self,
        request: &Request<'_>,
        answer: Result<Output, Failure>,
        reply: &mut Reply,
    ) -> Result<(), Error> {
        let output = answer.map_err(|failure| self.error_from_by(request.deadline(), failure))?;
        reply.made_elsewhere(self.id, output);
        if reply.has_own_content_type() {
            return self.check_content_type(reply.content_type());
        }
        Ok(())
    }

    /// Refuses a media type that is too long, or that holds what no header may.
    #[cold]
    fn check_content_type(&self, name: &str) -> Result<(), Error> {
        let is_plain = !name.chars().any(|char| is_escaped(char, Lines::One));
        if is_plain && name.len() <= CONTENT_TYPE_BYTES_MAX {
            return Ok(());
        }
        let found = escaped(start_of(name, CONTENT_TYPE_BYTES_MAX), Lines::One).into_owned();
        let message = format!(
            "answered with the content type `{found}`, which is not valid: wanted at most \
             {CONTENT_TYPE_BYTES_MAX} bytes without control characters"
        );
        Err(Error::new(ErrorKind::InvalidOutput, message).of(&self.name).in_generation(self.id))
    }

    #[cold]
    fn no_endpoint(&self, request: &Request<'_>) -> Error {
        let message = match request.named_endpoint() {
            Some(endpoint) => format!(
                "was not called: it has no endpoint `{endpoint}`; only plugins of the kind \
                 `process` have endpoints of their own"
            ),
            None => "was not called: the request has a method or headers; only plugins of the \
                     kind `process` are called by HTTP"
                .to_owned(),
        };
        Error::new(ErrorKind::Unsupported, message).of(&self.name).in_generation(self.id)
    }

    #[cold]
    fn input_too_large(&self, found: usize) -> Error {
        let wanted = self.limits.max_input_bytes;
        let message = format!("was sent {found} bytes; its `limits.input_bytes` is {wanted}");
        Error::new(ErrorKind::InvalidInput, message).of(&self.name).in_generation(self.id)
    }

    #[cold]
    fn output_too_large(&self, found: usize) -> Error {
        let wanted = self.limits.max_output_bytes;
        let message = format!("answered {found} bytes; its `limits.output_bytes` is {wanted}");
        Error::new(ErrorKind::InvalidOutput, message).of(&self.name).in_generation(self.id)
    }
}

/// What a failure in a plugin is to a caller.
pub(crate) fn error_of(failure: Failure) -> Error {
    match failure {
        Failure::Error(error) => {
            Error::new(ErrorKind::Plugin, "answered with an error").caused_by(error)
        }
        Failure::Panic(fault) => Error::new(ErrorKind::Panicked, "failed").caused_by(fault),
        Failure::Other(error) => error,
        Failure::Code(code) => Error::new(
            ErrorKind::Incompatible,
            format!("returned the code {code}, which this host does not know; rebuild the plugin"),
        ),
    }
}
