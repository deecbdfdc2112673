//! Many calls of one plugin that run as a task: one by one, or together in groups where the
//! plugin can be asked many things at once.

use std::time::Instant;

use super::each::{Each, Many};
use crate::generation::Token;
use crate::pool::Ran;
use crate::slot::Visit;
use crate::sync::{after, lock};

impl Many {
    /// Makes all that are left. The plugin answers those that are late, so nobody looks on.
    pub(super) async fn run_as_task(&self, generation: u64) -> Ran {
        let (mut calls, mut at) = {
            let mut progress = lock(&self.progress);
            (std::mem::take(&mut progress.calls), progress.at)
        };
        while at < calls.len() {
            if !self.standing.is_wanted() {
                return Ran::Done;
            }
            let Some(token) = self.inner.slot.lease_of(generation) else {
                let mut progress = lock(&self.progress);
                (progress.calls, progress.at) = (calls, at);
                return Ran::NotHere;
            };
            at += self.make_some(&token, &mut calls[at..]).await;
        }
        self.tell(calls);
        Ran::Done
    }

    /// Makes the first of `calls`, or some; answers with how many were looked at.
    async fn make_some(&self, token: &Token, calls: &mut [Each]) -> usize {
        self.make_one(token, &mut calls[0]).await;
        1
    }

    async fn make_one(&self, token: &Token, call: &mut Each) {
        let Each::Asks(request) = call else { return };
        request.set_deadline(self.wait_max.map(|wait_max| after(Instant::now(), wait_max)));
        self.standing.begin();
        let answer = self.inner.stride(&Visit::pooled(request, token, &self.standing)).await;
        // It counted for this step.
        request.set_deadline(None);
        *call = match answer {
            Ok(reply) => Each::Answered(std::mem::take(request), reply),
            Err(error) => Each::Failed(error),
        };
    }
}
