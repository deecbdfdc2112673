//! A stream of requests through a pipeline, in chunks, so that the cost of queues and threads is
//! paid once for many. The number of concurrent chunks is bounded. If the calls have no limits,
//! threads of the stream take the requests through all steps as a caller would.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use crate::call::{CallState, Reply, Request};
use crate::error::{Error, ErrorKind, bug};
use crate::handle::{BatchItem, PluginHandle};
use crate::id::GenerationId;
use crate::worker::{PoolLimits, WorkerPool};

/// Options of [`Pipeline::run_many`].
///
/// ```
/// use futures_util::stream;
/// use hotbay::{Host, Output, Request, RunOptions};
///
/// let host = Host::builder()
///     .register_fn("shout", |_, input| Ok(Output::text(input.as_text()?.to_uppercase())))
///     .build()?;
/// let lines = ["one", "two"].map(|line| Request::owned(line.into()));
/// let options = RunOptions::ordered().with_max_chunk(64);
/// let mut outcomes = host.pipeline(["shout"])?.run_many(stream::iter(lines), options);
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// assert_eq!(outcomes.next().await.unwrap().outcome?.as_text()?, "ONE");
/// assert_eq!(outcomes.next().await.unwrap().outcome?.as_text()?, "TWO");
/// assert!(outcomes.next().await.is_none());
/// # Ok::<(), hotbay::Error>(())
/// # })?;
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct RunOptions {
    is_ordered: bool,
    max_chunk: usize,
    max_chunks: usize,
}

impl RunOptions {
    /// Creates options for outcomes in the order of their requests.
    pub fn ordered() -> Self {
        Self { is_ordered: true, max_chunk: 256, max_chunks: 8 }
    }

    /// Creates options for outcomes in the order in which they complete.
    pub fn unordered() -> Self {
        Self { is_ordered: false, ..Self::ordered() }
    }

    /// Sets the maximum number of requests in a chunk, at least one. A chunk takes only requests
    /// that are ready. Default: 256.
    pub fn with_max_chunk(mut self, requests: usize) -> Self {
        self.max_chunk = requests.max(1);
        self
    }

    /// Sets the maximum number of concurrent chunks, at least one. Default: 8.
    pub fn with_max_chunks(mut self, chunks: usize) -> Self {
        self.max_chunks = chunks.max(1);
        self
    }
}

/// The outcome of one request of many.
#[derive(Debug)]
#[non_exhaustive]
pub struct Completed {
    /// The position of the request, from 0.
    pub index: u64,
    /// The reply of the last step, or the error of the step that failed; see [`Pipeline::run`].
    pub outcome: Result<Reply, Error>,
}

/// The stream of outcomes of [`Pipeline::run_many`].
#[must_use = "nothing runs unless the stream is polled"]
pub struct RunMany {
    done: Pin<Box<dyn Stream<Item = Completed> + Send>>,
}

impl Stream for RunMany {
    type Item = Completed;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Completed>> {
        self.done.as_mut().poll_next(context)
    }
}

impl RunMany {
    /// Waits for the next outcome; `None` once all requests are done.
    pub async fn next(&mut self) -> Option<Completed> {
        self.done.next().await
    }
}

impl fmt::Debug for RunMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunMany").finish_non_exhaustive()
    }
}

impl Pipeline {
    /// Sends a stream of requests through the plugins and returns a stream with one outcome for
    /// each request.
    ///
    /// Memory is bounded: at most [`with_max_chunks`](RunOptions::with_max_chunks) chunks of at most
    /// [`with_max_chunk`](RunOptions::with_max_chunk) requests run at once, and no more are taken from
    /// `requests` until the outcomes are taken. Runs on any executor; nothing runs unless the
    /// stream is polled. Dropping the stream cancels the running calls. See [`RunOptions`] for an
    /// example.
    ///
    /// Plugins are looked up for each chunk. If their calls have neither deadlines nor
    /// `limits.in_flight`, threads of the stream take chunks through all steps, as many as the
    /// plugins have workers. Otherwise each step runs on the workers of its plugin, and a call that
    /// exceeds its deadline does not delay the following ones. The deadline of a step applies to
    /// each call from its own start. Requests with a deadline or a token run one by one, so that
    /// each completes in time.
    pub fn run_many<S>(&self, requests: S, options: RunOptions) -> RunMany
    where
        S: Stream<Item = Request<'static>> + Send + 'static,
    {
        let pipeline = self.clone();
        let mut next = 0_u64;
        let chunks = requests.ready_chunks(options.max_chunk);
        let chunks = chunks.flat_map(|requests| stream::iter(split(requests)));
        let mut runners = Runners::new(self.clone(), options.max_chunks);
        let chunks = chunks.map(move |requests| {
            let first = next;
            next += requests.len() as u64;
            let is_bounded = requests.first().is_some_and(Request::is_bounded);
            let run = if is_bounded { Err(requests) } else { runners.run(first, requests) };
            match run {
                Ok(run) => run.left_future(),
                Err(requests) => {
                    let pipeline = pipeline.clone();
                    async move { pipeline.run_chunk(first, requests).await }.right_future()
                }
            }
        });
        let done: Pin<Box<dyn Stream<Item = Completed> + Send>> = match options.is_ordered {
            true => Box::pin(chunks.buffered(options.max_chunks).flat_map(stream::iter)),
            false => Box::pin(chunks.buffer_unordered(options.max_chunks).flat_map(stream::iter)),
        };
        RunMany { done }
    }

    async fn run_chunk(&self, first: u64, mut requests: Vec<Request<'static>>) -> Vec<Completed> {
        if requests.len() == 1
            && let Some(request) = requests.pop_if(|request| request.is_bounded())
        {
            let outcome = self.run(request.wait_for_space_by_default()).await;
            return vec![Completed { index: first, outcome }];
        }
        let mut calls: Vec<_> = requests.into_iter().map(BatchItem::Pending).collect();
        for at in 0..self.steps.len() {
            calls.iter_mut().for_each(continue_with_reply);
            if calls.iter().all(|call| matches!(call, BatchItem::Failed(_))) {
                break;
            }
            calls = match self.plugin(at) {
                Ok(plugin) => plugin.execute_each(calls, self.steps[at].timeout).await,
                Err(error) => calls.into_iter().map(|call| failed(call, &error)).collect(),
            };
            for call in &mut calls {
                self.record_skipped(at + 1, call);
            }
        }
        let done = |(index, call): (usize, BatchItem)| Completed {
            index: first + index as u64,
            outcome: match call {
                BatchItem::Answered(_, reply) => Ok(reply),
                BatchItem::Failed(error) => Err(error),
                BatchItem::Pending(_) => {
                    Err(crate::error::bug!("a call of a pipeline was not made"))
                }
            },
        };
        calls.into_iter().enumerate().map(done).collect()
    }

    /// Records in the error of a call that has just failed which steps are skipped.
    fn record_skipped(&self, from: usize, call: &mut BatchItem) {
        if let BatchItem::Failed(error) = call
            && error.skipped().is_empty()
            && from < self.steps.len()
        {
            let taken = std::mem::replace(error, Error::new(ErrorKind::Internal, ""));
            *error = taken.skipping(self.names_from(from));
        }
    }
}

/// Replaces a call that was answered with the call of the next step.
fn continue_with_reply(call: &mut BatchItem) {
    let taken = std::mem::replace(call, BatchItem::Pending(Request::default()));
    *call = match taken {
        BatchItem::Answered(request, reply) => BatchItem::Pending(request.answered_by(reply)),
        other => other,
    };
}

/// Splits requests: those with a deadline or token alone, the ones between them together.
fn split(requests: Vec<Request<'static>>) -> Vec<Vec<Request<'static>>> {
    if !requests.iter().any(Request::is_bounded) {
        return vec![requests];
    }
    let mut chunks: Vec<Vec<Request<'static>>> = Vec::new();
    for request in requests {
        match chunks.last_mut() {
            Some(last) if !request.is_bounded() && !last[0].is_bounded() => last.push(request),
            _ => chunks.push(vec![request]),
        }
    }
    chunks
}

fn failed(call: BatchItem, error: &Error) -> BatchItem {
    match call {
        BatchItem::Pending(_) => BatchItem::Failed(error.cloned()),
        call => call,
    }
}

/// The threads of one stream. They exit with it, and with the generations that they called: what a
/// plugin leaves on a thread would keep its library mapped.
pub(super) struct Runners {
    pipeline: Pipeline,
    max_chunks: usize,
    current: Option<RunnerThreads>,
}

/// Chunks hold the pool too, so that it ends with the last of them and nothing waits for a plugin.
struct RunnerThreads {
    pool: WorkerPool<Vec<Completed>>,
    generations: Vec<GenerationId>,
}

/// The steps as a thread runs them.
struct Steps {
    plugins: Vec<PluginHandle>,
    pipeline: Pipeline,
    state: CallState,
}

impl Runners {
    pub(super) fn new(pipeline: Pipeline, max_chunks: usize) -> Self {
        Self { pipeline, max_chunks, current: None }
    }

    /// Runs a chunk through the pipeline. Returns it if a step is missing or has limits.
    pub(super) fn run(
        &mut self,
        first: u64,
        requests: Vec<Request<'static>>,
    ) -> Result<impl Future<Output = Vec<Completed>> + Send + use<>, Vec<Request<'static>>> {
        let Some((plugins, pool)) = self.ready() else { return Err(requests) };
        let count = requests.len();
        let state = CallState::default();
        let steps = Arc::new(Steps { plugins, pipeline: self.pipeline.clone(), state });
        let (own, guard) = (Arc::clone(&steps), pool.clone());
        let ticket = pool.submit(move || {
            let _guard = guard;
            own.run(first, requests)
        });
        Ok(async move {
            let cancel = CancelOnDrop(steps);
            let outcome = match ticket {
                Ok(ticket) => ticket.await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let done = outcome.unwrap_or_else(|reason| {
                let lost = |at| Completed {
                    index: first + at,
                    outcome: Err(bug!("a chunk of a pipeline was lost: {reason}")),
                };
                (0..count as u64).map(lost).collect()
            });
            drop(cancel);
            done
        })
    }

    /// Returns the current plugins, and threads that called no others.
    fn ready(&mut self) -> Option<(Vec<PluginHandle>, WorkerPool<Vec<Completed>>)> {
        let mut plugins = Vec::with_capacity(self.pipeline.steps.len());
        let (mut generations, mut workers) = (Vec::new(), u32::MAX);
        for at in 0..self.pipeline.steps.len() {
            if self.pipeline.steps[at].timeout.is_some() {
                return None;
            }
            let plugin = self.pipeline.plugin(at).ok()?;
            let (generation, max_workers) = plugin.unbounded()?;
            generations.push(generation);
            workers = workers.min(max_workers);
            plugins.push(plugin);
        }
        if self.current.as_ref().is_none_or(|workers| workers.generations != generations) {
            let mut limits = PoolLimits::default();
            limits.workers = workers;
            limits.max_queued_calls = u32::try_from(self.max_chunks).unwrap_or(u32::MAX);
            limits.max_results = limits.max_queued_calls.saturating_add(workers);
            let pool = WorkerPool::new(limits, &CancellationToken::new()).ok()?;
            self.current = Some(RunnerThreads { pool, generations });
        }
        let pool = self.current.as_ref()?.pool.clone();
        Some((plugins, pool))
    }
}

impl Steps {
    fn run(&self, first: u64, requests: Vec<Request<'static>>) -> Vec<Completed> {
        let mut done = Vec::with_capacity(requests.len());
        for (index, request) in (first..).zip(requests) {
            if !self.state.is_active() {
                break;
            }
            done.push(Completed { index, outcome: self.run_one(request) });
        }
        done
    }

    /// Runs one request through all steps.
    fn run_one(&self, mut request: Request<'static>) -> Result<Reply, Error> {
        let last = self.plugins.len() - 1;
        for (at, plugin) in self.plugins.iter().enumerate() {
            let reply = plugin.call_for(&request, &self.state);
            let reply = reply.map_err(|error| error.skipping(self.pipeline.names_from(at + 1)))?;
            if at == last {
                return Ok(reply);
            }
            request = request.answered_by(reply);
        }
        Err(bug!("a pipeline without steps"))
    }
}

/// Cancels the running calls when the chunk is dropped.
struct CancelOnDrop(Arc<Steps>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.state.cancel();
    }
}
