//! Many calls of one plugin that run as a task: one by one, or together in groups where the
//! plugin can be asked many things at once.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::each::{Each, Many};
use crate::call::{Reply, Request};
use crate::error::Error;
use crate::generation::{Asked, Token};
use crate::pool::JobOutcome;
use crate::slot::{Gather, Gathered, Visit};
use crate::sync::{after, lock};

impl Many {
    /// Makes all that are left. The plugin answers those that are late, so nobody looks on.
    pub(super) async fn run_as_task(&self, generation: u64) -> JobOutcome {
        let (mut calls, mut at) = {
            let mut progress = lock(&self.progress);
            (std::mem::take(&mut progress.calls), progress.at)
        };
        while at < calls.len() {
            if !self.standing.is_wanted() {
                return JobOutcome::Completed;
            }
            let Some(token) = self.inner.slot.lease_of(generation) else {
                let mut progress = lock(&self.progress);
                (progress.calls, progress.at) = (calls, at);
                return JobOutcome::StaleEpoch;
            };
            at += self.make_some(&token, &mut calls[at..]).await;
        }
        self.tell(calls);
        JobOutcome::Completed
    }

    /// Makes the first of `calls`, or the first few together; answers with how many were
    /// looked at.
    async fn make_some(&self, token: &Token, calls: &mut [Each]) -> usize {
        let slot = &self.inner.slot;
        let most = if self.goes_together() { token.batch().unwrap_or(1) } else { 1 };
        let asking = asking(calls).take(most).count();
        if asking > 1 {
            let room = slot.enter_together(u32::try_from(asking).unwrap_or(u32::MAX));
            let most = room.as_ref().map_or(asking, |room| room.calls() as usize);
            if most > 1 {
                let end = asking_end(calls, most);
                self.make_together(token, &mut calls[..end]).await;
                return end;
            }
        }
        self.make_one(token, &mut calls[0]).await;
        1
    }

    /// Whether calls may be made together. Not where each has its own time: an exchange that is
    /// late does not tell which of them were.
    fn goes_together(&self) -> bool {
        self.wait_max.is_none() && !self.inner.slot.is_on_probation()
    }

    async fn make_one(&self, token: &Token, call: &mut Each) {
        let Each::Asks(request) = call else { return };
        request.set_deadline(self.wait_max.map(|wait_max| after(Instant::now(), wait_max)));
        self.standing.begin();
        let answer = self.inner.stride(&Visit::pooled(request, token, &self.standing)).await;
        // It counted for this step.
        request.set_deadline(None);
        call.end(answer);
    }

    /// Makes those of `calls` that ask: each goes its own way through the layers, and one
    /// exchange with the plugin answers all that come to the end.
    pub(super) async fn make_together(&self, token: &Token, calls: &mut [Each]) {
        self.standing.begin();
        let gather = Gather::default();
        let mut ended = Vec::with_capacity(calls.len());
        let walk = |(at, request)| self.walk(token, &gather, at, request);
        let mut walks: FuturesUnordered<_> = asking(calls).map(walk).collect();
        // Until each of them has ended or waits in the gather.
        poll_fn(|context| {
            loop {
                match walks.poll_next_unpin(context) {
                    Poll::Ready(Some(outcome)) => ended.push(outcome),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending if gather.waiting() == walks.len() => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        self.exchange(token, calls, gather.take()).await;
        while let Some(outcome) = walks.next().await {
            ended.push(outcome);
        }
        drop(walks);
        for (at, outcome) in ended {
            calls[at].end(outcome);
        }
    }

    /// One call of a group: its own way through the layers.
    async fn walk(
        &self,
        token: &Token,
        gather: &Gather,
        at: usize,
        request: &Request<'static>,
    ) -> (usize, Result<Reply, Error>) {
        let place = gather.place(at);
        let visit = Visit::pooled(request, token, &self.standing);
        let visit = Visit { place: Some(&place), ..visit };
        (at, self.inner.stride(&visit).await)
    }

    /// Asks the plugin all that was gathered of `calls`, and tells each its answer.
    async fn exchange(&self, token: &Token, calls: &[Each], gathered: Vec<Gathered>) {
        let asked: Vec<_> = gathered.iter().filter_map(|one| self.asked(calls, one)).collect();
        if asked.is_empty() {
            return;
        }
        let answers = async { Ok(token.call_many(asked).await) };
        match self.inner.slot.while_wanted(token, &self.standing, answers).await {
            Ok(answers) => {
                gathered.into_iter().zip(answers).for_each(|(one, answer)| one.answer(answer))
            }
            Err(error) => gathered.into_iter().for_each(|one| one.answer(Err(error.again()))),
        }
    }

    fn asked<'c>(&'c self, calls: &'c [Each], one: &Gathered) -> Option<Asked<'c>> {
        let Some(Each::Asks(request)) = calls.get(one.at) else { return None };
        Some(Asked { request, standing: Some(&self.standing), call_id: one.call_id })
    }
}

/// Those of `calls` that ask, and where they are.
fn asking(calls: &[Each]) -> impl Iterator<Item = (usize, &Request<'static>)> {
    calls.iter().enumerate().filter_map(|(at, call)| match call {
        Each::Asks(request) => Some((at, request)),
        _ => None,
    })
}

/// Behind the first `most` of `calls` that ask.
fn asking_end(calls: &[Each], most: usize) -> usize {
    asking(calls).take(most).last().map_or(calls.len(), |(at, _)| at + 1)
}

impl Each {
    /// It asked, and this came of it.
    fn end(&mut self, outcome: Result<Reply, Error>) {
        let Self::Asks(request) = self else { return };
        *self = match outcome {
            Ok(reply) => Self::Answered(std::mem::take(request), reply),
            Err(error) => Self::Failed(error),
        };
    }
}
