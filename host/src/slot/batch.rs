//! Where the calls of a group wait at the end of the corridor, so that one exchange with the
//! plugin answers all of them.

use std::sync::Mutex;

use tokio::sync::oneshot;

use crate::call::Reply;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;

type Answer = Result<Reply, Error>;

/// The calls of a group that came to the end of the corridor.
#[derive(Debug, Default)]
pub(crate) struct BatchCollector(Mutex<Vec<BatchedCall>>);

/// One of them.
#[derive(Debug)]
pub(crate) struct BatchedCall {
    /// Which one of the group it is.
    pub(crate) index: usize,
    pub(crate) call_id: u64,
    reply: oneshot::Sender<Answer>,
}

/// The place of one call in a gather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSlot<'g> {
    collector: &'g BatchCollector,
    index: usize,
}

impl BatchCollector {
    /// The place of the call that is the group's number `at`.
    pub(crate) fn slot(&self, at: usize) -> BatchSlot<'_> {
        BatchSlot { collector: self, index: at }
    }

    /// Calls that wait here.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Takes all that wait here, to be asked together.
    pub(crate) fn take(&self) -> Vec<BatchedCall> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl BatchSlot<'_> {
    /// Waits until the group was answered.
    pub(super) async fn wait(self, call_id: u64) -> Answer {
        let (answer, answered) = oneshot::channel();
        lock(&self.collector.0).push(BatchedCall { index: self.index, call_id, reply: answer });
        answered.await.unwrap_or_else(|_| {
            let message = "was called with others at once, and got no answer of its own";
            Err(Error::new(ErrorKind::Protocol, message))
        })
    }
}

impl BatchedCall {
    /// Lets the call go on with its answer.
    pub(crate) fn complete(self, answer: Answer) {
        // Unless it left.
        let _ = self.reply.send(answer);
    }
}
