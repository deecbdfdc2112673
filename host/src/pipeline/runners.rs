//! Threads of one stream of requests, for pipelines whose calls have no limits. Each takes its
//! requests through all steps as a caller would, so that the hop between threads is paid once for
//! each chunk.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Completed, Pipeline};
use crate::call::{CallState, Reply, Request};
use crate::error::{Error, bug};
use crate::handle::PluginHandle;
use crate::id::GenerationId;
use crate::pool::{PoolLimits, WorkerPool};

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
