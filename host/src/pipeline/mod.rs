//! Pipelines: the reply of each plugin is the request of the next. Looks plugins up on each run,
//! and checks for cancellation before each step; never runs a step after one that failed.

mod many;

use std::fmt;
#[cfg(feature = "tower")]
use std::pin::Pin;
use std::sync::Arc;
#[cfg(feature = "tower")]
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(feature = "tower")]
use tower_service::Service;

use crate::call::{Reply, Request};
use crate::error::{Error, ErrorKind};
use crate::handle::PluginHandle;
use crate::id::PluginName;
pub use many::{Completed, RunMany, RunOptions};

/// A sequence of plugins, created by [`Host::pipeline`](crate::Host::pipeline). Cheap to clone.
///
/// ```
/// # use hotbay::{Host, Output, Request};
/// let host = Host::builder()
///     .register_fn("trim", |_, input| Ok(Output::text(input.as_text()?.trim())))
///     .register_fn("shout", |_, input| Ok(Output::text(input.as_text()?.to_uppercase())))
///     .build()?;
/// let pipeline = host.pipeline(["trim", "shout"])?;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let reply = pipeline.run(Request::text("  hello ")).await?;
/// assert_eq!(reply.as_text()?, "HELLO");
/// # Ok::<(), hotbay::Error>(())
/// # })?;
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone)]
pub struct Pipeline {
    steps: Arc<[PipelineStep]>,
    find: Arc<dyn Find>,
}

/// Looks up the plugins of steps.
pub(crate) trait Find: Send + Sync {
    fn find(&self, name: &PluginName) -> Result<PluginHandle, Error>;
}

/// One step of a [`Pipeline`].
#[derive(Clone, Debug)]
pub struct PipelineStep {
    plugin: String,
    name: Option<PluginName>,
    timeout: Option<Duration>,
}

impl PipelineStep {
    /// Creates a step that calls a plugin.
    pub fn new(plugin: impl Into<String>) -> Self {
        let plugin = plugin.into();
        Self { name: PluginName::new(&plugin).ok(), plugin, timeout: None }
    }

    /// Limits the time of this step, from its own start.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

impl<T: Into<String>> From<T> for PipelineStep {
    fn from(plugin: T) -> Self {
        Self::new(plugin)
    }
}

impl Pipeline {
    /// Creates a pipeline whose plugins all exist now.
    pub(crate) fn new(steps: Vec<PipelineStep>, find: Arc<dyn Find>) -> Result<Self, Error> {
        if steps.is_empty() {
            let error = Error::new(ErrorKind::NotFound, "a pipeline needs at least one step");
            return Err(error.with_hint("list the plugins in the order of the calls"));
        }
        let pipeline = Self { steps: steps.into(), find };
        for at in 0..pipeline.steps.len() {
            pipeline.plugin(at)?;
        }
        Ok(pipeline)
    }

    /// Sends a request through the plugins, each on its own workers, and returns the reply of the
    /// last one.
    ///
    /// The request's deadline, token, trace and operation apply to all steps. Dropping the future
    /// cancels the running step.
    ///
    /// # Errors
    ///
    /// The error of the step that failed: [`Error::plugin`] returns its name,
    /// [`Error::plugin_error`] its own error, and [`Error::skipped`] the steps that did not run.
    /// `Cancelled` if the token was cancelled between two steps.
    pub async fn run(&self, request: Request<'_>) -> Result<Reply, Error> {
        let mut request = request.into_owned();
        let last = self.steps.len() - 1;
        let mut at = 0;
        loop {
            if request.is_cancelled() {
                let error = Error::new(ErrorKind::Cancelled, "the caller cancelled the pipeline");
                return Err(error.skipping(self.names_from(at)));
            }
            let options = Request::bytes(&[]).with_options_of(&request);
            let reply = self.run_step(at, request).await;
            let reply = reply.map_err(|error| error.skipping(self.names_from(at + 1)))?;
            if at == last {
                return Ok(reply);
            }
            request = options.answered_by(reply);
            at += 1;
        }
    }

    async fn run_step(&self, at: usize, request: Request<'static>) -> Result<Reply, Error> {
        let request = match self.steps[at].timeout {
            Some(timeout) => request.with_timeout(timeout),
            None => request,
        };
        self.plugin(at)?.execute(request).await
    }

    /// Returns the plugin of a step.
    fn plugin(&self, at: usize) -> Result<PluginHandle, Error> {
        let PipelineStep { name, plugin, .. } = &self.steps[at];
        let Some(name) = name else {
            let message = format!("plugin `{plugin}` not found");
            let error = Error::new(ErrorKind::NotFound, message);
            return Err(match PluginName::new(plugin) {
                Err(invalid) => error.caused_by(invalid),
                Ok(_) => error,
            });
        };
        let found = self.find.find(name);
        found.map_err(|error| error.of_if_unset_because(name, "was not called"))
    }

    /// Returns the names of the steps from `at` on.
    fn names_from(&self, at: usize) -> Vec<PluginName> {
        self.steps[at..].iter().filter_map(|step| step.name.clone()).collect()
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("steps", &self.steps).finish_non_exhaustive()
    }
}

#[cfg(feature = "tower")]
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
