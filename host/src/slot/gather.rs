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
pub(crate) struct Gather(Mutex<Vec<Gathered>>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// Which one of the group it is.
    pub(crate) at: usize,
    pub(crate) call_id: u64,
    answer: oneshot::Sender<Answer>,
}

/// The place of one call in a gather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'g> {
    gather: &'g Gather,
    at: usize,
}

impl Gather {
    /// The place of the call that is the group's number `at`.
    pub(crate) fn place(&self, at: usize) -> Place<'_> {
        Place { gather: self, at }
    }

    /// Calls that wait here.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.0).len()
    }

    /// Takes all that wait here, to be asked together.
    pub(crate) fn take(&self) -> Vec<Gathered> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Place<'_> {
    /// Waits until the group was answered.
    pub(super) async fn wait(self, call_id: u64) -> Answer {
        let (answer, answered) = oneshot::channel();
        lock(&self.gather.0).push(Gathered { at: self.at, call_id, answer });
        answered.await.unwrap_or_else(|_| {
            let message = "was called with others at once, and got no answer of its own";
            Err(Error::new(ErrorKind::Protocol, message))
        })
    }
}

impl Gathered {
    /// Lets the call go on with its answer.
    pub(crate) fn answer(self, answer: Answer) {
        // Unless it left.
        let _ = self.answer.send(answer);
    }
}
