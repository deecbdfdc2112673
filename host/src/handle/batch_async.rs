//! Batches that run as a task: call by call, or several calls in one exchange if the plugin
//! supports it.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::batch::{BatchItem, BatchJob};
use crate::call::{Reply, Request};
use crate::error::Error;
use crate::generation::{CallArgs, InstanceRef};
use crate::pool::JobOutcome;
use crate::slot::{BatchCollector, BatchedCall, CallScope};
use crate::sync::{after, lock};

impl BatchJob {
    /// Makes the remaining calls. Each call watches its own deadline, so the timer has no part.
    pub(super) async fn run_async_calls(&self, generation: u64) -> JobOutcome {
        let (mut calls, mut at) = {
            let mut progress = lock(&self.progress);
            (std::mem::take(&mut progress.calls), progress.at)
        };
        while at < calls.len() {
            if !self.state.is_active() {
                return JobOutcome::Completed;
            }
            let Some(instance) = self.inner.slot.lease(generation) else {
                let mut progress = lock(&self.progress);
                (progress.calls, progress.at) = (calls, at);
                return JobOutcome::StaleEpoch;
            };
            at += self.call_some(&instance, &mut calls[at..]).await;
        }
        self.complete(calls);
        JobOutcome::Completed
    }

    /// Makes the first of `calls`, or the first few together; returns how many were handled.
    async fn call_some(&self, instance: &InstanceRef, calls: &mut [BatchItem]) -> usize {
        let slot = &self.inner.slot;
        let max = if self.can_batch() { instance.batch().unwrap_or(1) } else { 1 };
        let count = pending(calls).take(max).count();
        if count > 1 {
            let guard = slot.enter_many(u32::try_from(count).unwrap_or(u32::MAX));
            let max = guard.as_ref().map_or(count, |guard| guard.calls() as usize);
            if max > 1 {
                let end = pending_end(calls, max);
                self.call_together(instance, &mut calls[..end]).await;
                return end;
            }
        }
        self.call_one(instance, &mut calls[0]).await;
        1
    }

    /// Returns whether calls may be sent together. Not with a time limit for each: an exchange that
    /// times out does not show which of them did.
    fn can_batch(&self) -> bool {
        self.timeout.is_none() && !self.inner.slot.is_probing()
    }

    async fn call_one(&self, instance: &InstanceRef, call: &mut BatchItem) {
        let BatchItem::Pending(request) = call else { return };
        request.set_deadline(self.timeout.map(|timeout| after(Instant::now(), timeout)));
        self.state.reset();
        let answer = self.inner.run_async(&CallScope::pooled(request, instance, &self.state)).await;
        // The deadline applied to this step only.
        request.set_deadline(None);
        call.set_outcome(answer);
    }

    /// Makes the pending calls among `calls`: each passes through the layers, and one exchange with
    /// the plugin answers all that reach the end.
    pub(super) async fn call_together(&self, instance: &InstanceRef, calls: &mut [BatchItem]) {
        self.state.reset();
        let collector = BatchCollector::default();
        let mut outcomes = Vec::with_capacity(calls.len());
        let start = |(at, request)| self.run_layers(instance, &collector, at, request);
        let mut running: FuturesUnordered<_> = pending(calls).map(start).collect();
        // Until each of them has returned or waits in the collector.
        poll_fn(|context| {
            loop {
                match running.poll_next_unpin(context) {
                    Poll::Ready(Some(outcome)) => outcomes.push(outcome),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending if collector.len() == running.len() => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        self.exchange(instance, calls, collector.take()).await;
        while let Some(outcome) = running.next().await {
            outcomes.push(outcome);
        }
        drop(running);
        for (at, outcome) in outcomes {
            calls[at].set_outcome(outcome);
        }
    }

    /// Passes one call of a batch through the layers.
    async fn run_layers(
        &self,
        instance: &InstanceRef,
        collector: &BatchCollector,
        at: usize,
        request: &Request<'static>,
    ) -> (usize, Result<Reply, Error>) {
        let batch_slot = collector.slot(at);
        let scope = CallScope::pooled(request, instance, &self.state);
        let scope = CallScope { batch_slot: Some(&batch_slot), ..scope };
        (at, self.inner.run_async(&scope).await)
    }

    /// Sends the collected calls to the plugin, and completes each with its result.
    async fn exchange(&self, instance: &InstanceRef, calls: &[BatchItem], batch: Vec<BatchedCall>) {
        let args: Vec<_> = batch.iter().filter_map(|one| self.args_of(calls, one)).collect();
        if args.is_empty() {
            return;
        }
        let results = async { Ok(instance.call_many(args).await) };
        match self.inner.slot.until_cancelled(instance, &self.state, results).await {
            Ok(results) => {
                batch.into_iter().zip(results).for_each(|(one, result)| one.complete(result))
            }
            Err(error) => batch.into_iter().for_each(|one| one.complete(Err(error.cloned()))),
        }
    }

    fn args_of<'c>(&'c self, calls: &'c [BatchItem], one: &BatchedCall) -> Option<CallArgs<'c>> {
        let Some(BatchItem::Pending(request)) = calls.get(one.index) else { return None };
        Some(CallArgs { request, state: Some(&self.state), call_id: one.call_id })
    }
}

/// Returns the pending calls with their indices.
fn pending(calls: &[BatchItem]) -> impl Iterator<Item = (usize, &Request<'static>)> {
    calls.iter().enumerate().filter_map(|(at, call)| match call {
        BatchItem::Pending(request) => Some((at, request)),
        _ => None,
    })
}

/// Returns the index after the first `max` pending calls.
fn pending_end(calls: &[BatchItem], max: usize) -> usize {
    pending(calls).take(max).last().map_or(calls.len(), |(at, _)| at + 1)
}

impl BatchItem {
    /// Sets the outcome of a pending call.
    fn set_outcome(&mut self, outcome: Result<Reply, Error>) {
        let Self::Pending(request) = self else { return };
        *self = match outcome {
            Ok(reply) => Self::Answered(std::mem::take(request), reply),
            Err(error) => Self::Failed(error),
        };
    }
}
