//! Plugins in a row: each one's reply is the next one's request. Looks plugins up at each run,
//! and at cancellation before each step; never runs a step after one that failed.

mod many;
mod runners;
#[cfg(feature = "tower")]
mod tower;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::{Reply, Request};
use crate::error::{Error, ErrorKind};
use crate::handle::PluginHandle;
use crate::id::PluginName;
pub use many::{Completed, RunMany, RunOptions};

/// Plugins in a row, made by [`Host::pipeline`](crate::Host::pipeline). Cheap to clone.
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

/// Where steps are looked up.
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
    /// The step that a plugin takes.
    pub fn new(plugin: impl Into<String>) -> Self {
        let plugin = plugin.into();
        Self { name: PluginName::new(&plugin).ok(), plugin, timeout: None }
    }

    /// Says how long this step may take, from its own begin on.
    #[must_use]
    pub fn deadline_in(mut self, timeout: Duration) -> Self {
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
    /// A pipeline whose plugins are all there now.
    pub(crate) fn new(steps: Vec<PipelineStep>, find: Arc<dyn Find>) -> Result<Self, Error> {
        if steps.is_empty() {
            let message = "a pipeline needs a step; name the plugins in their order";
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let pipeline = Self { steps: steps.into(), find };
        for at in 0..pipeline.steps.len() {
            pipeline.plugin(at)?;
        }
        Ok(pipeline)
    }

    /// Sends a request through the plugins, each on threads of its own, and answers with what
    /// the last one answers.
    ///
    /// The request's deadline, token, trace and operation count for all steps. Dropping the
    /// future takes the step that runs back.
    ///
    /// # Errors
    ///
    /// That of the step that failed: [`Error::plugin`] names it, [`Error::plugin_error`] is its
    /// own, and [`Error::skipped`] names the steps that were not run. `Cancelled` when the
    /// token was cancelled between two steps.
    pub async fn run(&self, request: Request<'_>) -> Result<Reply, Error> {
        let mut request = request.into_owned();
        let last = self.steps.len() - 1;
        let mut at = 0;
        loop {
            if request.is_cancelled() {
                let message = "the pipeline was taken back by its caller";
                let error = Error::new(ErrorKind::Cancelled, message);
                return Err(error.skipping(self.names_from(at)));
            }
            let policy = Request::bytes(&[]).with_terms_of(&request);
            let reply = self.take_step(at, request).await;
            let reply = reply.map_err(|error| error.skipping(self.names_from(at + 1)))?;
            if at == last {
                return Ok(reply);
            }
            request = policy.answered_by(reply);
            at += 1;
        }
    }

    async fn take_step(&self, at: usize, request: Request<'static>) -> Result<Reply, Error> {
        let request = match self.steps[at].timeout {
            Some(timeout) => request.deadline_in(timeout),
            None => request,
        };
        self.plugin(at)?.execute(request).await
    }

    /// The plugin that serves at a step now.
    fn plugin(&self, at: usize) -> Result<PluginHandle, Error> {
        let PipelineStep { name, plugin, .. } = &self.steps[at];
        let Some(name) = name else {
            let error = Error::new(ErrorKind::NotFound, format!("there is no plugin `{plugin}`"));
            return Err(match PluginName::new(plugin) {
                Err(invalid) => error.caused_by(invalid),
                Ok(_) => error,
            });
        };
        self.find.find(name).map_err(|error| error.of_if_unset(name))
    }

    /// The names of the steps from one on.
    fn names_from(&self, at: usize) -> Vec<PluginName> {
        self.steps[at..].iter().filter_map(|step| step.name.clone()).collect()
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("steps", &self.steps).finish_non_exhaustive()
    }
}
