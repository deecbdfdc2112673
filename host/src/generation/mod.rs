//! One load of one plugin: its backend, its threads and its state. Does not decide when it starts
//! or ends.

mod backend;
mod bindings;
mod call_id;
mod lease;
mod policy;
pub(crate) mod recovery;
mod stream_threads;
mod streams;
pub(crate) mod unload;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fmt, io};

use hotbay_plugin::Fault;
#[cfg(all(unix, feature = "process"))]
use hotbay_plugin::Output;
use hotbay_plugin::contract::{CallError, ContractText};
use hotbay_plugin::text::{Lines, MAX_CONTENT_TYPE_BYTES, escaped, is_escaped, start_of};
use semver::Version;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::boundary::BindError;
use crate::boundary::services::Registration;
#[cfg(all(unix, feature = "process"))]
use crate::call::ReplySlot;
use crate::call::{CallState, Entered, Failure, MethodRequest, Request};
use crate::error::{Error, ErrorKind};
use crate::event::{EventBus, HostEvent};
use crate::id::{GenerationId, PluginName};
use crate::sync::{ReturnSlot, WaitGroup, deadline_in, lock};
use crate::worker::{Epoch, Job, WorkSource, WorkerThreads, spawn_async_worker};
pub(crate) use backend::{Backend, ProcessTable, UnloadLeftovers, caller_runtime};
pub(crate) use bindings::ServedMethod;
pub(crate) use call_id::next_call_id;
pub(crate) use lease::{BriefFailure, BriefTask, CallArgs, InstanceRef, is_in_plugin_call};
pub(crate) use policy::CallPolicy;
use stream_threads::StreamThreads;
pub(crate) use stream_threads::{MakeItems, Turn};
pub(crate) use streams::{EndStream, OpenStreams, Opened, StreamSource};
pub(crate) use unload::{DeferredUnloads, RetainReason, RetainedEntry};

/// Time in which calls that run as tasks must end after they were aborted.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of contracts in the error of a call of another one.
const MAX_SHOWN_CONTRACTS: usize = 8;

/// One load of one plugin: everything except the backend, which the instance holds.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) name: PluginName,
    pub(crate) id: GenerationId,
    pub(crate) version: Version,
    pub(crate) limits: IoLimits,
    pub(crate) policy: Arc<CallPolicy>,
    /// The reason its library must stay mapped after an unload, if it must.
    pub(crate) retain_reason: Option<String>,
    /// Whether a sandbox may deny what it tries.
    pub(crate) is_confined: bool,
    pub(crate) workers: WorkerThreads,
    /// Runtime for pooled calls as tasks; `None` if they run on `workers`.
    pub(crate) runtime: Option<Handle>,
    /// Aborts the calls that run as tasks.
    abort: CancellationToken,
    pub(crate) events: EventBus,
    current: AtomicBool,
    state: Mutex<State>,
    /// The slot into which the last lease returns the backend.
    returned: ReturnSlot<Backend>,
    /// Calls of async methods that were not completed yet.
    tasks: Arc<WaitGroup>,
    /// Streams that callers have not read to their end.
    streams: OpenStreams,
    /// Make items of streams whose callers do not block.
    pub(crate) stream_threads: Arc<StreamThreads>,
    /// Serves the plugin's calls to the host until it is stopped.
    services: Mutex<Option<Registration>>,
}

/// Byte limits of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IoLimits {
    pub(crate) max_input_bytes: u64,
    pub(crate) max_output_bytes: u64,
}

/// The parts of a generation, besides its backend.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: PluginName,
    pub(crate) id: GenerationId,
    pub(crate) version: Version,
    pub(crate) limits: IoLimits,
    pub(crate) policy: Arc<CallPolicy>,
    pub(crate) retain_reason: Option<String>,
    pub(crate) is_confined: bool,
    pub(crate) workers: WorkerThreads,
    /// Runtime for pooled calls as tasks; `None` if they run on `workers`.
    pub(crate) runtime: Option<Handle>,
    pub(crate) events: EventBus,
    pub(crate) services: Option<Registration>,
}

impl Generation {
    /// Returns the current state.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Starts a worker for the calls queued at `source`, of which `job` is one.
    pub(crate) fn spawn_worker(
        &self,
        source: Arc<dyn WorkSource>,
        epoch: Epoch,
        job: Option<&Arc<dyn Job>>,
    ) -> io::Result<()> {
        match &self.runtime {
            Some(tasks) if source.supports_async() => {
                spawn_async_worker(tasks, source, epoch, self.id.get(), job);
                Ok(())
            }
            _ => self.workers.spawn_worker(source, epoch, self.id.get()),
        }
    }

    /// Waits until calls that run as tasks must end.
    pub(crate) fn calls_aborted(&self) -> WaitForCancellationFuture<'_> {
        self.abort.cancelled()
    }

    /// Aborts the calls that run as tasks.
    pub(crate) fn abort_calls(&self) {
        self.abort.cancel();
    }

    /// Returns the backend once the last lease is released and no stream is open. Aborts calls that
    /// run as tasks, and ends streams, after `drain_timeout`; calls in a library cannot be aborted.
    fn drained(&self, drain_timeout: Duration) -> Option<Backend> {
        let deadline = deadline_in(drain_timeout);
        let backend = self.returned.take(drain_timeout);
        let backend = match backend {
            None if self.runtime.is_some() || !self.tasks.is_idle() => {
                self.abort_calls();
                self.returned.take(ABORT_TIMEOUT)?
            }
            backend => backend?,
        };
        if !self.streams.wait_idle(deadline) {
            self.streams.end_all();
        }
        // Tasks use the plugin until they are dropped, even if their callers are gone.
        let is_idle = self.streams.wait_idle(deadline_in(ABORT_TIMEOUT));
        if is_idle && self.tasks.wait_idle(deadline_in(ABORT_TIMEOUT)) {
            return Some(backend);
        }
        self.returned.put(backend);
        None
    }

    /// Returns whether new calls go to this generation.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.current.load(Ordering::Relaxed)
    }

    pub(crate) fn set_current(&self, current: bool) {
        self.current.store(current, Ordering::Relaxed);
    }

    /// Returns whether the last lease is released, and no stream is open.
    pub(crate) fn has_drained(&self) -> bool {
        self.returned.is_filled() && self.streams.is_idle()
    }

    /// Waits for the last lease, at most `timeout`, and takes the backend.
    pub(crate) fn take_backend(&self, timeout: Duration) -> Option<Backend> {
        self.returned.take(timeout)
    }

    /// Emits the event of a panic.
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
        let hint = denied_hint(&failure).filter(|_| self.is_confined);
        error_of(failure).with_optional_hint(hint).of(&self.name).in_generation(self.id)
    }

    /// Converts a failure like [`error_from`](Self::error_from), for a call with this deadline. An
    /// error returned after the deadline, such as for a call that the plugin cancelled, counts as a
    /// timeout.
    #[cold]
    pub(crate) fn error_from_by(&self, deadline: Option<Instant>, failure: Failure) -> Error {
        match failure {
            Failure::Error(own) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                let message = "did not answer before the deadline, and then returned an error";
                let error =
                    Error::new(ErrorKind::DeadlineExceeded, message).caused_by(own.to_string());
                error.of(&self.name).in_generation(self.id)
            }
            failure => self.error_from(failure),
        }
    }

    /// Returns the error of a call whose task has not finished by its deadline.
    #[cold]
    pub(crate) fn not_in_time(&self) -> Error {
        let message = "did not answer before the deadline";
        Error::new(ErrorKind::DeadlineExceeded, message).of(&self.name).in_generation(self.id)
    }

    /// Returns the error of a direct call whose caller cancelled it.
    #[cold]
    fn cancelled(&self) -> Error {
        let message = "was called, but the caller cancelled the call";
        Error::new(ErrorKind::Cancelled, message).of(&self.name).in_generation(self.id)
    }

    /// Rejects an input that is too large.
    fn check_input(&self, request: &Request<'_>) -> Result<(), Error> {
        let found = request.byte_len();
        let fits = found as u64 <= self.limits.max_input_bytes;
        if fits { Ok(()) } else { Err(self.input_too_large(found)) }
    }

    /// Fills `reply` with the output of a process.
    #[cfg(all(unix, feature = "process"))]
    fn fill_reply(
        &self,
        request: &Request<'_>,
        answer: Result<Output, Failure>,
        reply: &mut ReplySlot,
    ) -> Result<(), Error> {
        let output = answer.map_err(|failure| self.error_from_by(request.deadline(), failure))?;
        reply.made_elsewhere(self.id, output);
        if reply.has_own_content_type() {
            return self.check_content_type(reply.content_type());
        }
        Ok(())
    }

    /// Rejects a media type that is too long or contains control characters.
    #[cold]
    fn check_content_type(&self, name: &str) -> Result<(), Error> {
        let is_plain = !name.chars().any(|char| is_escaped(char, Lines::One));
        if is_plain && name.len() <= MAX_CONTENT_TYPE_BYTES {
            return Ok(());
        }
        let found = escaped(start_of(name, MAX_CONTENT_TYPE_BYTES), Lines::One).into_owned();
        let message = format!(
            "returned the invalid content type `{found}`; expected at most \
             {MAX_CONTENT_TYPE_BYTES} bytes without control characters"
        );
        Err(Error::new(ErrorKind::InvalidOutput, message).of(&self.name).in_generation(self.id))
    }

    /// Returns the error of a call of a method that the plugin does not have.
    #[cold]
    fn method_missing(&self, method: &MethodRequest<'_>) -> Error {
        let text = &method.contract.text;
        let (name, since) = match method.method() {
            Some(method) => (method.name.as_str(), method.since),
            None => ("", None),
        };
        let since = since.map(|since| format!(", which version {since} added")).unwrap_or_default();
        let message =
            format!("was not called: it has no method `{name}` of contract `{}`{since}", text.name);
        let error = Error::new(ErrorKind::NotProvided, message).of(&self.name);
        error
            .with_hint("rebuild the plugin against the current version of the contract")
            .in_generation(self.id)
    }

    /// Returns the error of a call of a contract that the plugin does not serve.
    #[cold]
    fn not_bound(&self, backend: &Backend, contract: &ContractText, error: &BindError) -> Error {
        let (name, version) = (&contract.name, contract.version);
        let error = match error {
            BindError::NotServed => {
                let (mut served, hint) = backend.served_contracts();
                if served.len() > MAX_SHOWN_CONTRACTS {
                    served.truncate(MAX_SHOWN_CONTRACTS);
                    served.push("…".to_owned());
                }
                let only = if served.is_empty() { "or any other" } else { "only " };
                let served = served.join(", ");
                let message = format!("does not serve contract `{name}` {version}, {only}{served}");
                Error::new(ErrorKind::NotProvided, message).with_hint(hint)
            }
            BindError::Incompatible { error, hint } => {
                let message = format!("serves an incompatible version of contract `{name}`");
                let error = Error::new(ErrorKind::Incompatible, message).caused_by(error.clone());
                error.with_hint(hint.clone())
            }
        };
        error.of(&self.name).in_generation(self.id)
    }

    /// Returns the error of a call whose arguments cannot be serialized.
    #[cold]
    fn not_encoded(&self, error: CallError) -> Error {
        let message = "was not called: its arguments cannot be serialized";
        let error = Error::new(ErrorKind::InvalidInput, message).caused_by(error);
        error.of(&self.name).in_generation(self.id)
    }

    #[cold]
    fn no_endpoint(&self, request: &Request<'_>) -> Error {
        let message = match request.endpoint() {
            Some(endpoint) => format!(
                "was not called: the request names the endpoint `{endpoint}`, but only plugins of \
                 kind `process` have endpoints"
            ),
            None => {
                "was not called: the request has a method or headers, but only plugins of kind \
                 `process` are called over HTTP"
                    .to_owned()
            }
        };
        Error::new(ErrorKind::Unsupported, message).of(&self.name).in_generation(self.id)
    }

    /// Records that the plugin runs a call, until the guard is dropped. Fails if the call has ended.
    #[inline]
    fn enter<'s>(&self, state: Option<&'s CallState>) -> Result<Entered<'s>, Error> {
        Entered::new(state, self.id.get()).ok_or_else(|| self.ended_before_start(state))
    }

    /// Returns the error of a call that ended right before it would have reached the plugin.
    #[cold]
    fn ended_before_start(&self, state: Option<&CallState>) -> Error {
        let (kind, message) = match state.is_some_and(CallState::timed_out) {
            true => (ErrorKind::DeadlineExceeded, "was not called: the deadline had passed"),
            false => (ErrorKind::Cancelled, "was not called: the caller cancelled the call"),
        };
        Error::new(kind, message).of(&self.name)
    }

    #[cold]
    fn input_too_large(&self, found: usize) -> Error {
        let error = policy::input_too_large(found, self.limits.max_input_bytes);
        error.of(&self.name).in_generation(self.id)
    }

    #[cold]
    pub(crate) fn output_too_large(&self, found: usize) -> Error {
        let max = self.limits.max_output_bytes;
        let message =
            format!("returned an output of {found} bytes; its `limits.output_bytes` is {max}");
        Error::new(ErrorKind::InvalidOutput, message).of(&self.name).in_generation(self.id)
    }
}

/// Returns advice for a failure of a confined plugin, if its text is that of a denied system call.
fn denied_hint(failure: &Failure) -> Option<&'static str> {
    /// As C libraries and Node describe `EACCES` and `EPERM`, in lower case.
    const DENIED: [&str; 4] = ["permission denied", "operation not permitted", "eacces", "eperm"];
    let text = match failure {
        Failure::Error(error) => error.message(),
        Failure::Panic(fault) => fault.message(),
        _ => return None,
    };
    let text = text.to_ascii_lowercase();
    DENIED.iter().any(|denied| text.contains(denied)).then_some(
        "its sandbox may deny this: list the file in `read` or `write`, the program in `run`, or the \
         port in `net`, of `sandbox` in its plugin.json, and in hotbay.toml if that sets bounds \
         (`hotbay inspect` prints what is granted); some calls, such as `chmod` and `setsid`, are \
         always denied",
    )
}

/// Converts a failure of a plugin into the error of its caller.
pub(crate) fn error_of(failure: Failure) -> Error {
    match failure {
        Failure::Error(error) => {
            Error::new(ErrorKind::Plugin, "returned an error").caused_by(error)
        }
        Failure::Panic(fault) => Error::new(ErrorKind::Panicked, "failed").caused_by(fault),
        Failure::BadArguments(error) => {
            let message = "was not called: it cannot read the arguments";
            Error::new(ErrorKind::InvalidInput, message).caused_by(error.message().to_owned())
        }
        Failure::BadResult(error) => {
            let message = "returned a result that cannot be serialized";
            Error::new(ErrorKind::InvalidOutput, message).caused_by(error.message().to_owned())
        }
        Failure::Cancelled => {
            let message = "was called, but its task was dropped before it was finished";
            Error::new(ErrorKind::Retired, message).with_hint("call again")
        }
        Failure::Other(error) => error,
        Failure::Code(code) => {
            let message = format!("returned the code {code}, which is unknown to this host");
            Error::new(ErrorKind::Incompatible, message).with_hint("rebuild the plugin")
        }
    }
}

/// The state of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It serves calls.
    Serving,
    /// It accepts no new calls, and some still run.
    Draining,
    /// No call runs; it is shutting down.
    Retired,
    /// Its library is unmapped.
    Closed,
    /// Its library stays mapped, for this reason.
    Kept(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("serving"),
            Self::Draining => f.write_str("draining"),
            Self::Retired => f.write_str("retired"),
            Self::Closed => f.write_str("closed"),
            Self::Kept(reason) => write!(f, "kept ({reason})"),
        }
    }
}
