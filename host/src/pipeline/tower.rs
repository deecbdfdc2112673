//! A pipeline as a tower service.

use std::pin::Pin;
use std::task::{Context, Poll};

use tower_service::Service;

use super::Pipeline;
use crate::call::{Reply, Request};
use crate::error::Error;

impl Service<Request<'static>> for Pipeline {
    type Response = Reply;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

    /// Always ready, as its plugins are.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    /// Calls [`run`](Pipeline::run), boxed.
    fn call(&mut self, request: Request<'static>) -> Self::Future {
        let pipeline = self.clone();
        Box::pin(async move { pipeline.run(request).await })
    }
}
