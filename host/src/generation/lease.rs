//! A call's hold on a generation: a guard of a small token, so that calls share no counter.
//! The last one to let go only hands the instance back; no plugin ends on a caller's thread.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotbay_plugin::abi::{Bounds, RawContext};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Backend, Generation, Parts, State};
use crate::call::{CallState, Failure, Reply, Request};
use crate::error::{Error, ErrorKind, bug};
use crate::pool::RunOutcome;
#[cfg(unix)]
use crate::supervisor::{Process, ProcessCall};
use crate::sync::ReturnSlot;

/// Stands for the right to be called, and owns what is called. The slot holds one; calls
/// borrow it.
pub(crate) struct InstanceRef {
    /// Taken by the drop alone.
    backend: Option<Backend>,
    /// Here, so that a call looks nothing up.
    checks_input: bool,
    generation: Arc<Generation>,
}

impl InstanceRef {
    /// A generation that was started and is healthy, and its one token.
    pub(crate) fn new(parts: Parts, backend: Backend) -> Self {
        let generation = Generation {
            name: parts.name,
            id: parts.id,
            version: parts.version,
            limits: parts.limits,
            policy: parts.policy,
            retain_reason: parts.retain_reason,
            workers: parts.workers,
            runtime: parts.runtime,
            abort: CancellationToken::new(),
            events: parts.events,
            current: AtomicBool::new(true),
            state: State::Serving.into(),
            returned: ReturnSlot::new(),
            services: parts.services.into(),
        };
        Self::resumed(Arc::new(generation), backend)
    }

    /// A new token of a generation whose body came back, and that is to serve on.
    pub(crate) fn resumed(generation: Arc<Generation>, backend: Backend) -> Self {
        let checks_input = generation.policy.checks_input();
        Self { backend: Some(backend), checks_input, generation }
    }

    /// Asks the plugin something on a thread of its own; the lease is held until it answered.
    pub(crate) fn call_with<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Backend) -> Result<T, Failure> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let instance = Arc::clone(self);
        let args = self.generation.workers.spawn(move || instance.answer(question));
        args.map_err(|error| {
            let message = "could not be asked: the system gave no thread";
            Error::new(ErrorKind::Overloaded, message).caused_by(error).of(&self.generation.name)
        })
    }

    /// As [`call_with`](Self::call_with), waiting for the answer in this thread, at most `wait_max`.
    pub(crate) fn call_within<T: Send + 'static>(
        self: &Arc<Self>,
        timeout: Duration,
        question: impl FnOnce(&Backend) -> Result<T, Failure> + Send + 'static,
    ) -> RunOutcome<Result<T, Error>> {
        let instance = Arc::clone(self);
        self.generation.workers.run(timeout, move || instance.answer(question))
    }

    fn answer<T>(&self, question: impl FnOnce(&Backend) -> Result<T, Failure>) -> Result<T, Error> {
        match &self.backend {
            Some(backend) => {
                question(backend).map_err(|failure| self.generation.error_from(failure))
            }
            None => Err(bug!("the token of `{}` lost its body", self.generation.name)),
        }
    }

    /// The generation, beyond the lease.
    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Whether calls have to fit a schema.
    #[inline]
    pub(crate) fn checks_input(&self) -> bool {
        self.checks_input
    }

    /// The socket of its process, if that lies where a second process would want its own.
    pub(crate) fn fixed_socket(&self) -> Option<std::path::PathBuf> {
        self.backend.as_ref()?.fixed_socket()
    }

    /// The process that serves, if it is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.backend.as_ref()?.pid()
    }

    /// Bytes that the plugin has allocated, where it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        self.backend.as_ref()?.live_bytes()
    }

    /// Answers a call, in this thread, by filling `reply`.
    #[inline]
    pub(crate) fn call(&self, args: CallArgs<'_>, reply: &mut Reply) -> Result<(), Error> {
        let CallArgs { request, state, call_id } = args;
        let generation = &*self.generation;
        let Some(backend) = &self.backend else {
            return Err(bug!("the token of `{}` lost its body", generation.name));
        };
        let input = request.payload();
        if input.len() as u64 > generation.limits.max_input_bytes {
            return Err(generation.input_too_large(input.len()));
        }
        let instance = match backend {
            Backend::InProcess(instance) => instance,
            #[cfg(unix)]
            Backend::OutOfProcess(process) => return self.call_process(process, args, reply),
        };
        if request.named_endpoint().is_some() || request.names_http() {
            return Err(generation.no_endpoint(request));
        }
        let bounds;
        let mut context = RawContext::new(call_id).with_trace(request.trace());
        if state.is_some() || request.is_bounded() {
            bounds = CallBounds { request, state };
            context = context.with_bounds(&bounds);
        }
        if let Some(state) = state {
            state.enter_plugin(generation.id.get());
        }
        let inside = DEPTH.get();
        DEPTH.set(inside + 1);
        let answer = instance.execute(&context, input, reply.output_mut());
        DEPTH.set(inside);
        if let Some(state) = state {
            state.leave_plugin();
        }
        if let Err(failure) = answer {
            return Err(generation.error_from_by(request.deadline(), failure));
        }
        reply.written_by(generation.id, instance.image().outputs());
        if reply.as_bytes().len() as u64 > generation.limits.max_output_bytes {
            return Err(generation.output_too_large(reply.as_bytes().len()));
        }
        if reply.has_own_content_type() {
            return generation.check_content_type(reply.content_type());
        }
        Ok(())
    }
}

#[cfg(unix)]
impl InstanceRef {
    /// Calls a process, waiting in this thread.
    #[cold]
    fn call_process(
        &self,
        process: &Process,
        args: CallArgs<'_>,
        reply: &mut Reply,
    ) -> Result<(), Error> {
        let CallArgs { request, state, call_id } = args;
        if let Some(state) = state {
            state.enter_plugin(self.generation.id.get());
        }
        let inside = DEPTH.get();
        DEPTH.set(inside + 1);
        let call = ProcessCall { request, call_id };
        let answer = process.call(&call, self.generation.calls_aborted());
        DEPTH.set(inside);
        if let Some(state) = state {
            state.leave_plugin();
        }
        self.generation.fill_reply(request, answer, reply)
    }
}

impl InstanceRef {
    /// What is called; none is a mistake of the host's own.
    pub(super) fn backend(&self) -> Option<&Backend> {
        self.backend.as_ref()
    }
}

/// What a plugin is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallArgs<'v> {
    pub(crate) request: &'v Request<'v>,
    /// How it stands with whoever made it, where others may speak for them.
    pub(crate) state: Option<&'v CallState>,
    pub(crate) call_id: u64,
}

/// What bounds a call in time, for the plugin that asks.
struct CallBounds<'v> {
    request: &'v Request<'v>,
    state: Option<&'v CallState>,
}

impl Bounds for CallBounds<'_> {
    fn is_cancelled(&self) -> bool {
        self.state.is_some_and(|state| !state.is_active())
            || self.request.is_cancelled()
            || self.remaining().is_some_and(|left| left.is_zero())
    }

    fn remaining(&self) -> Option<Duration> {
        let deadline = self.request.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

thread_local! {
    /// How many calls of plugins this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread is in a call of some plugin, and so holds a lease.
pub(crate) fn is_in_plugin_call() -> bool {
    DEPTH.get() > 0
}

impl Drop for InstanceRef {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.generation.returned.put(backend);
        }
    }
}

impl fmt::Debug for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceRef").field("generation", &self.generation.id).finish()
    }
}

/// Call ids are handed to threads in blocks, so that a call takes the next one without sharing.
const ID_BLOCK: u64 = 1 << 20;

/// The id of the next call, unique in this process.
#[inline]
pub(crate) fn next_call_id() -> u64 {
    static BLOCKS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    let mut next = NEXT.get();
    if next.is_multiple_of(ID_BLOCK) {
        next = BLOCKS.fetch_add(1, Ordering::Relaxed) * ID_BLOCK + 1;
    }
    NEXT.set(next + 1);
    next
}
