//! A ticket: where the result of a task will be.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Waits for one result. A future that runs on any executor.
#[derive(Debug)]
pub(crate) struct Ticket<T>(oneshot::Receiver<T>);

/// Tells one result.
#[derive(Debug)]
pub(crate) struct Teller<T>(oneshot::Sender<T>);

/// A ticket and who tells its result.
pub(crate) fn ticket<T>() -> (Teller<T>, Ticket<T>) {
    let (sender, receiver) = oneshot::channel();
    (Teller(sender), Ticket(receiver))
}

impl<T> Teller<T> {
    /// Tells the result; one that nobody waits for is dropped.
    pub(crate) fn tell(self, result: T) {
        let _ = self.0.send(result);
    }
}

impl<T> Future for Ticket<T> {
    /// None if the teller was dropped without a word.
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(Result::ok)
    }
}
