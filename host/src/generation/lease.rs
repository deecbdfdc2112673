//! A call's hold on a generation: a guard of a small token, so that calls share no counter.
//! The last one to let go only hands the instance back; no plugin ends on a caller's thread.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hotbay_plugin::abi::{Bounds, RawContext};
use tokio_util::sync::CancellationToken;

use super::{Body, Generation, Parts, State};
use crate::call::{Failure, Reply, Request, Standing};
use crate::error::{Error, ErrorKind, bug};
use crate::pool::{RunOutcome, Ticket};
#[cfg(unix)]
use crate::supervisor::{Process, ProcessCall};
use crate::sync::Handback;

/// Stands for the right to be called, and owns what is called. The slot holds one; calls
/// borrow it.
pub(crate) struct Token {
    /// Taken by the drop alone.
    body: Option<Body>,
    /// Here, so that a call looks nothing up.
    checks_input: bool,
    generation: Arc<Generation>,
}

impl Token {
    /// A generation that was started and is healthy, and its one token.
    pub(crate) fn new(parts: Parts, body: Body) -> Self {
        let generation = Generation {
            name: parts.name,
            id: parts.id,
            version: parts.version,
            limits: parts.limits,
            terms: parts.terms,
            keep: parts.keep,
            crew: parts.crew,
            tasks: parts.tasks,
            cut_off: CancellationToken::new(),
            board: parts.board,
            current: AtomicBool::new(true),
            state: State::Serving.into(),
            returned: Handback::new(),
            services: parts.services.into(),
        };
        Self::again(Arc::new(generation), body)
    }

    /// A new token of a generation whose body came back, and that is to serve on.
    pub(crate) fn again(generation: Arc<Generation>, body: Body) -> Self {
        let checks_input = generation.terms.checks_input();
        Self { body: Some(body), checks_input, generation }
    }

    /// Asks the plugin something on a thread of its own; the lease is held until it answered.
    pub(crate) fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Body) -> Result<T, Failure> + Send + 'static,
    ) -> Result<Ticket<Result<T, Error>>, Error> {
        let token = Arc::clone(self);
        let asked = self.generation.crew.spawn(move || token.answer(question));
        asked.map_err(|error| {
            let message = "could not be asked: the system gave no thread";
            Error::new(ErrorKind::Overloaded, message).caused_by(error).of(&self.generation.name)
        })
    }

    /// As [`ask`](Self::ask), waiting for the answer in this thread, at most `wait_max`.
    pub(crate) fn ask_within<T: Send + 'static>(
        self: &Arc<Self>,
        wait_max: Duration,
        question: impl FnOnce(&Body) -> Result<T, Failure> + Send + 'static,
    ) -> RunOutcome<Result<T, Error>> {
        let token = Arc::clone(self);
        self.generation.crew.run(wait_max, move || token.answer(question))
    }

    fn answer<T>(&self, question: impl FnOnce(&Body) -> Result<T, Failure>) -> Result<T, Error> {
        match &self.body {
            Some(body) => question(body).map_err(|failure| self.generation.failed(failure)),
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
        self.body.as_ref()?.fixed_socket()
    }

    /// The process that serves, if it is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.body.as_ref()?.pid()
    }

    /// Bytes that the plugin has allocated, where it counts them.
    pub(crate) fn live_bytes(&self) -> Option<i64> {
        self.body.as_ref()?.live_bytes()
    }

    /// Answers a call, in this thread, by filling `reply`.
    #[inline]
    pub(crate) fn call(&self, asked: Asked<'_>, reply: &mut Reply) -> Result<(), Error> {
        let Asked { request, standing, call_id } = asked;
        let generation = &*self.generation;
        let Some(body) = &self.body else {
            return Err(bug!("the token of `{}` lost its body", generation.name));
        };
        let input = request.payload();
        if input.len() as u64 > generation.limits.input_bytes_max {
            return Err(generation.input_too_large(input.len()));
        }
        let instance = match body {
            Body::Inside(instance) => instance,
            #[cfg(unix)]
            Body::Apart(process) => return self.call_process(process, asked, reply),
        };
        if request.named_endpoint().is_some() || request.names_http() {
            return Err(generation.no_endpoint(request));
        }
        let bounds;
        let mut context = RawContext::new(call_id).with_trace(request.trace());
        if standing.is_some() || request.is_bounded() {
            bounds = Bounded { request, standing };
            context = context.with_bounds(&bounds);
        }
        if let Some(standing) = standing {
            standing.enter(generation.id.get());
        }
        let inside = INSIDE.get();
        INSIDE.set(inside + 1);
        let answer = instance.execute(&context, input, reply.output_mut());
        INSIDE.set(inside);
        if let Some(standing) = standing {
            standing.leave_plugin();
        }
        if let Err(failure) = answer {
            return Err(generation.failed_by(request.deadline(), failure));
        }
        reply.written_by(generation.id, instance.image().outputs());
        if reply.as_bytes().len() as u64 > generation.limits.output_bytes_max {
            return Err(generation.output_too_large(reply.as_bytes().len()));
        }
        if reply.has_own_content_type() {
            return generation.check_content_type(reply.content_type());
        }
        Ok(())
    }
}

#[cfg(unix)]
impl Token {
    /// Calls a process, waiting in this thread.
    #[cold]
    fn call_process(
        &self,
        process: &Process,
        asked: Asked<'_>,
        reply: &mut Reply,
    ) -> Result<(), Error> {
        let Asked { request, standing, call_id } = asked;
        if let Some(standing) = standing {
            standing.enter(self.generation.id.get());
        }
        let inside = INSIDE.get();
        INSIDE.set(inside + 1);
        let call = ProcessCall { request, call_id };
        let answer = process.call(&call, self.generation.calls_cut_off());
        INSIDE.set(inside);
        if let Some(standing) = standing {
            standing.leave_plugin();
        }
        self.generation.take_in(request, answer, reply)
    }
}

impl Token {
    /// What is called; none is a mistake of the host's own.
    pub(super) fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }
}

/// What a plugin is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'v> {
    pub(crate) request: &'v Request<'v>,
    /// How it stands with whoever made it, where others may speak for them.
    pub(crate) standing: Option<&'v Standing>,
    pub(crate) call_id: u64,
}

/// What bounds a call in time, for the plugin that asks.
struct Bounded<'v> {
    request: &'v Request<'v>,
    standing: Option<&'v Standing>,
}

impl Bounds for Bounded<'_> {
    fn is_cancelled(&self) -> bool {
        self.standing.is_some_and(|standing| !standing.is_wanted())
            || self.request.is_taken_back()
            || self.remaining().is_some_and(|left| left.is_zero())
    }

    fn remaining(&self) -> Option<Duration> {
        let deadline = self.request.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

thread_local! {
    /// How many calls of plugins this thread is in.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread is in a call of some plugin, and so holds a lease.
pub(crate) fn is_inside() -> bool {
    INSIDE.get() > 0
}

impl Drop for Token {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.generation.returned.put(body);
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("generation", &self.generation.id).finish()
    }
}

/// Call ids are handed to threads in blocks, so that a call takes the next one without sharing.
const BLOCK: u64 = 1 << 20;

/// The id of the next call, unique in this process.
#[inline]
pub(crate) fn next_call_id() -> u64 {
    static BLOCKS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    let mut next = NEXT.get();
    if next.is_multiple_of(BLOCK) {
        next = BLOCKS.fetch_add(1, Ordering::Relaxed) * BLOCK + 1;
    }
    NEXT.set(next + 1);
    next
}
