//! A plugin as a tower service, so that tower's layers can wrap it. Adds nothing to a pooled call
//! and buffers no call.

use std::task::{Context, Poll};

use tower_service::Service;

use super::{Execute, PluginHandle};
use crate::call::{Reply, Request};
use crate::error::Error;

impl Service<Request<'static>> for PluginHandle {
    type Response = Reply;
    type Error = Error;
    type Future = Execute;

    /// Always ready. The queue is bounded all the same: if it is full, the call itself returns
    /// `Overloaded`, or waits for as long as the request
    /// [waits for space](Request::with_space_timeout).
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    /// Calls [`execute`](PluginHandle::execute).
    fn call(&mut self, request: Request<'static>) -> Execute {
        self.execute(request)
    }
}
