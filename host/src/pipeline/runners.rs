//! Threads of one stream of requests, for pipelines whose calls nothing bounds in time: each
//! takes its requests through all steps as a caller of its own would, so that what a hop from
//! thread to thread costs is paid once a chunk.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Completed, Pipeline};
use crate::call::{CallState, Reply, Request};
use crate::error::{Error, bug};
use crate::handle::PluginHandle;
use crate::id::GenerationId;
use crate::pool::{PoolLimits, WorkerPool};

/// The threads of one stream; they end with it, and with the builds that they called: what a
/// plugin leaves on a thread would keep its library mapped.
pub(super) struct Runners {
    pipeline: Pipeline,
    chunks_max: usize,
    current: Option<RunnerThreads>,
}

/// Chunks hold its pool too, so that it ends with the last of them and nobody waits for a plugin.
struct RunnerThreads {
    pool: WorkerPool<Vec<Completed>>,
    of: Vec<GenerationId>,
}

/// What a thread needs of the steps.
struct Steps {
    plugins: Vec<PluginHandle>,
    pipeline: Pipeline,
    state: CallState,
}

impl Runners {
    pub(super) fn new(pipeline: Pipeline, chunks_max: usize) -> Self {
        Self { pipeline, chunks_max, current: None }
    }

    /// Takes a chunk through the pipeline; gives it back if this is not for them: a step is not
    /// there, or is bounded.
    pub(super) fn run(
        &mut self,
        first: u64,
        requests: Vec<Request<'static>>,
    ) -> Result<impl Future<Output = Vec<Completed>> + Send + use<>, Vec<Request<'static>>> {
        let Some((plugins, pool)) = self.ready() else { return Err(requests) };
        let count = requests.len();
        let state = CallState::default();
        let steps = Arc::new(Steps { plugins, pipeline: self.pipeline.clone(), state });
        let (own, held) = (Arc::clone(&steps), pool.clone());
        let receiver = pool.submit(move || {
            let _held = held;
            own.run(first, requests)
        });
        Ok(async move {
            let left = Left(steps);
            let outcome = match receiver {
                Ok(receiver) => receiver.await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let done = outcome.unwrap_or_else(|why| {
                let lost =
                    |at| Completed { index: first + at, outcome: Err(bug!("a chunk: {why}")) };
                (0..count as u64).map(lost).collect()
            });
            drop(left);
            done
        })
    }

    /// The plugins that serve now, and threads that called no others.
    fn ready(&mut self) -> Option<(Vec<PluginHandle>, WorkerPool<Vec<Completed>>)> {
        let mut plugins = Vec::with_capacity(self.pipeline.steps.len());
        let (mut of, mut workers) = (Vec::new(), u32::MAX);
        for at in 0..self.pipeline.steps.len() {
            if self.pipeline.steps[at].timeout.is_some() {
                return None;
            }
            let plugin = self.pipeline.plugin(at).ok()?;
            let (generation, max_workers) = plugin.unbounded()?;
            of.push(generation);
            workers = workers.min(max_workers);
            plugins.push(plugin);
        }
        if self.current.as_ref().is_none_or(|workers| workers.of != of) {
            let mut limits = PoolLimits::default();
            limits.workers = workers;
            limits.max_queued_calls = u32::try_from(self.chunks_max).unwrap_or(u32::MAX);
            limits.max_results = limits.max_queued_calls.saturating_add(workers);
            let pool = WorkerPool::new(limits, &CancellationToken::new()).ok()?;
            self.current = Some(RunnerThreads { pool, of });
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
            done.push(Completed { index, outcome: self.take(request) });
        }
        done
    }

    /// Takes one request through all steps.
    fn take(&self, mut request: Request<'static>) -> Result<Reply, Error> {
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

/// Tells the plugins that nobody waits any more.
struct Left(Arc<Steps>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.state.cancel();
    }
}
