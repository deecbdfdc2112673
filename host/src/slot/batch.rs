//! Collects the calls of a batch at the end of the call path, so that one exchange with the plugin
//! answers all of them.

use std::sync::Mutex;

use tokio::sync::oneshot;

use crate::call::Reply;
use crate::error::{Error, ErrorKind};
use crate::sync::lock;

type Answer = Result<Reply, Error>;

/// The calls of a batch that reached the end of the call path.
#[derive(Debug, Default)]
pub(crate) struct BatchCollector(Mutex<Vec<BatchedCall>>);

/// A call of a batch.
#[derive(Debug)]
pub(crate) struct BatchedCall {
    /// Its position in the batch.
    pub(crate) index: usize,
    pub(crate) call_id: u64,
    reply: oneshot::Sender<Answer>,
}

/// The position of one call in a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSlot<'g> {
    collector: &'g BatchCollector,
    index: usize,
}

impl BatchCollector {
    /// Returns the slot of the call at `index`.
    pub(crate) fn slot(&self, index: usize) -> BatchSlot<'_> {
        BatchSlot { collector: self, index }
    }

    /// Returns the number of collected calls.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).len()
    }

    /// Takes all collected calls, to be sent together.
    pub(crate) fn take(&self) -> Vec<BatchedCall> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl BatchSlot<'_> {
    /// Waits for the result of the call.
    pub(super) async fn wait(self, call_id: u64) -> Answer {
        let (sender, receiver) = oneshot::channel();
        lock(&self.collector.0).push(BatchedCall { index: self.index, call_id, reply: sender });
        receiver.await.unwrap_or_else(|_| {
            let message = "answered a batch of calls without a result for this call";
            Err(Error::new(ErrorKind::Protocol, message))
        })
    }
}

impl BatchedCall {
    /// Completes the call with its result.
    pub(crate) fn complete(self, answer: Answer) {
        // The receiver is gone if the caller cancelled the call.
        let _ = self.reply.send(answer);
    }
}
