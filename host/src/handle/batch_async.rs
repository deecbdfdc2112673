//! Many calls of one plugin that run as a task: one by one, or together in groups where the
//! plugin can be asked many things at once.

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
    /// Makes all that are left. The plugin answers those that are late, so nobody looks on.
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
        self.tell(calls);
        JobOutcome::Completed
    }

    /// Makes the first of `calls`, or the first few together; answers with how many were
    /// looked at.
    async fn call_some(&self, instance: &InstanceRef, calls: &mut [BatchItem]) -> usize {
        let slot = &self.inner.slot;
        let most = if self.can_batch() { instance.batch().unwrap_or(1) } else { 1 };
        let asking = pending(calls).take(most).count();
        if asking > 1 {
            let room = slot.enter_many(u32::try_from(asking).unwrap_or(u32::MAX));
            let most = room.as_ref().map_or(asking, |room| room.calls() as usize);
            if most > 1 {
                let end = pending_end(calls, most);
                self.call_together(instance, &mut calls[..end]).await;
                return end;
            }
        }
        self.call_one(instance, &mut calls[0]).await;
        1
    }

    /// Whether calls may be made together. Not where each has its own time: an exchange that is
    /// late does not tell which of them were.
    fn can_batch(&self) -> bool {
        self.timeout.is_none() && !self.inner.slot.is_probing()
    }

    async fn call_one(&self, instance: &InstanceRef, call: &mut BatchItem) {
        let BatchItem::Pending(request) = call else { return };
        request.set_deadline(self.timeout.map(|timeout| after(Instant::now(), timeout)));
        self.state.reset();
        let answer = self.inner.run_async(&CallScope::pooled(request, instance, &self.state)).await;
        // It counted for this step.
        request.set_deadline(None);
        call.end(answer);
    }

    /// Makes those of `calls` that ask: each goes its own way through the layers, and one
    /// exchange with the plugin answers all that come to the end.
    pub(super) async fn call_together(&self, instance: &InstanceRef, calls: &mut [BatchItem]) {
        self.state.reset();
        let gather = BatchCollector::default();
        let mut ended = Vec::with_capacity(calls.len());
        let walk = |(at, request)| self.run_layers(instance, &gather, at, request);
        let mut walks: FuturesUnordered<_> = pending(calls).map(walk).collect();
        // Until each of them has ended or waits in the gather.
        poll_fn(|context| {
            loop {
                match walks.poll_next_unpin(context) {
                    Poll::Ready(Some(outcome)) => ended.push(outcome),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending if gather.len() == walks.len() => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        self.exchange(instance, calls, gather.take()).await;
        while let Some(outcome) = walks.next().await {
            ended.push(outcome);
        }
        drop(walks);
        for (at, outcome) in ended {
            calls[at].end(outcome);
        }
    }

    /// One call of a group: its own way through the layers.
    async fn run_layers(
        &self,
        instance: &InstanceRef,
        gather: &BatchCollector,
        at: usize,
        request: &Request<'static>,
    ) -> (usize, Result<Reply, Error>) {
        let place = gather.slot(at);
        let scope = CallScope::pooled(request, instance, &self.state);
        let scope = CallScope { batch_slot: Some(&place), ..scope };
        (at, self.inner.run_async(&scope).await)
    }

    /// Asks the plugin all that was gathered of `calls`, and tells each its answer.
    async fn exchange(
        &self,
        instance: &InstanceRef,
        calls: &[BatchItem],
        gathered: Vec<BatchedCall>,
    ) {
        let args: Vec<_> = gathered.iter().filter_map(|one| self.pending_mut(calls, one)).collect();
        if args.is_empty() {
            return;
        }
        let answers = async { Ok(instance.call_many(args).await) };
        match self.inner.slot.until_cancelled(instance, &self.state, answers).await {
            Ok(answers) => {
                gathered.into_iter().zip(answers).for_each(|(one, answer)| one.complete(answer))
            }
            Err(error) => gathered.into_iter().for_each(|one| one.complete(Err(error.cloned()))),
        }
    }

    fn pending_mut<'c>(
        &'c self,
        calls: &'c [BatchItem],
        one: &BatchedCall,
    ) -> Option<CallArgs<'c>> {
        let Some(BatchItem::Pending(request)) = calls.get(one.index) else { return None };
        Some(CallArgs { request, state: Some(&self.state), call_id: one.call_id })
    }
}

/// Those of `calls` that ask, and where they are.
fn pending(calls: &[BatchItem]) -> impl Iterator<Item = (usize, &Request<'static>)> {
    calls.iter().enumerate().filter_map(|(at, call)| match call {
        BatchItem::Pending(request) => Some((at, request)),
        _ => None,
    })
}

/// Behind the first `most` of `calls` that ask.
fn pending_end(calls: &[BatchItem], most: usize) -> usize {
    pending(calls).take(most).last().map_or(calls.len(), |(at, _)| at + 1)
}

impl BatchItem {
    /// It asked, and this came of it.
    fn end(&mut self, outcome: Result<Reply, Error>) {
        let Self::Pending(request) = self else { return };
        *self = match outcome {
            Ok(reply) => Self::Answered(std::mem::take(request), reply),
            Err(error) => Self::Failed(error),
        };
    }
}
