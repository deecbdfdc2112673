//! The application's own layers: what it puts around the calls of its plugins.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hotbay_plugin::TraceContext;

use super::panic_error;
use crate::call::{Reply, Request};
use crate::error::{Error, bug};
use crate::id::PluginName;
use crate::manifest::Manifest;
use crate::slot::{AsyncService, CallScope, Method, Slot, SyncService};

/// Something that an application puts around the calls of its plugins: authentication, a cache,
/// a log of its own.
///
/// Runs in the thread that runs the call, which is the caller's for
/// [`call`](crate::PluginHandle::call) and the plugin's own for
/// [`execute`](crate::PluginHandle::execute). Costs two calls through a pointer.
///
/// ```
/// use hotbay::{Call, Error, Host, Layer, Next, Output, Reply, Request};
///
/// struct Shouting;
///
/// impl Layer for Shouting {
///     fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error> {
///         let text = String::from_utf8_lossy(call.request().as_bytes()).to_uppercase();
///         next.call(call.with_request(&Request::text(&text).with_terms_of(call.request())))
///     }
/// }
///
/// let host = Host::builder()
///     .layer(Shouting)
///     .register_fn("echo", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// let reply = host.plugin("echo")?.call(Request::text("hello"))?;
/// assert_eq!(reply.as_text()?, "HELLO");
/// # Ok::<(), Error>(())
/// ```
///
/// # Panics
///
/// A layer that panics fails its call with the kind `LayerPanicked`, and nothing is held against the
/// plugin.
pub trait Layer: Send + Sync + 'static {
    /// Answers the call, as a rule with what `next` answers; or refuses it, see
    /// [`Error::denied`].
    ///
    /// # Errors
    ///
    /// Those of `next`, and the layer's own.
    fn call(&self, call: Call<'_>, next: Next<'_>) -> Result<Reply, Error>;

    /// Whether this layer is put around the calls of this plugin; asked once, when the plugin
    /// is first loaded. By default it is put around all.
    fn applies_to(&self, manifest: &Manifest) -> bool {
        let _ = manifest;
        true
    }
}

/// A call on its way to a plugin, as layers see it.
#[derive(Clone, Copy)]
pub struct Call<'c> {
    plugin: &'c PluginName,
    scope: CallScope<'c>,
}

impl<'c> Call<'c> {
    /// The plugin that is called.
    pub fn plugin(&self) -> &'c PluginName {
        self.plugin
    }

    /// How the call is made.
    pub fn method(&self) -> Method {
        self.scope.method
    }

    /// What is asked.
    pub fn request(&self) -> &'c Request<'c> {
        self.scope.request
    }

    /// What the plugin is asked to do, if the request names it.
    pub fn operation(&self) -> Option<&'c str> {
        self.scope.request.named_operation()
    }

    /// The trace that the call belongs to, if the request names it.
    pub fn trace(&self) -> Option<&'c TraceContext> {
        self.scope.request.trace()
    }

    /// How long the answer is still wanted; none: for ever.
    pub fn remaining(&self) -> Option<Duration> {
        let deadline = self.scope.request.deadline()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// The same call with another request; see [`Request::with_terms_of`].
    #[must_use]
    pub fn with_request<'n>(self, request: &'n Request<'n>) -> Call<'n>
    where
        'c: 'n,
    {
        let scope: CallScope<'n> = CallScope { request, ..self.scope };
        Call { plugin: self.plugin, scope }
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("plugin", &self.plugin)
            .field("method", &self.method())
            .finish_non_exhaustive()
    }
}

/// What a layer is around: the next layer, or the plugin. May be called again, to try again.
#[derive(Clone, Copy)]
pub struct Next<'n> {
    step: &'n dyn SyncService,
}

impl Next<'_> {
    /// Goes on with the call.
    ///
    /// # Errors
    ///
    /// Those of [`PluginHandle::call`](crate::PluginHandle::call).
    pub fn call(&self, call: Call<'_>) -> Result<Reply, Error> {
        let mut reply = Reply::vacant();
        self.step.call(&call.scope, &mut reply)?;
        Ok(reply)
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// One layer of the application, and what it is around.
struct UserLayer {
    layer: Arc<dyn Layer>,
    slot: Arc<Slot>,
    inner: Box<dyn SyncService>,
}

impl SyncService for UserLayer {
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        let call = Call { plugin: &self.slot.name, scope: *scope };
        let next = Next { step: &*self.inner };
        let answer = catch_unwind(AssertUnwindSafe(|| self.layer.call(call, next)));
        let answer = answer.map_err(|payload| panic_error(&self.slot, "a layer", payload));
        *reply = answer?.map_err(|error| error.of_if_unset(&self.slot.name))?;
        Ok(())
    }
}

/// The application's layers around one plugin, or none.
pub(crate) enum UserLayers<S> {
    None(S),
    Some(Box<dyn SyncService>),
}

impl<S: SyncService + 'static> UserLayers<S> {
    /// Puts `layers` around `inner`, the first outermost.
    pub(super) fn around(slot: &Arc<Slot>, layers: &[Arc<dyn Layer>], inner: S) -> Self {
        let Some((first, others)) = layers.split_first() else { return Self::None(inner) };
        let mut step: Box<dyn SyncService> = Box::new(inner);
        for layer in others.iter().rev().chain([first]) {
            let (layer, slot) = (Arc::clone(layer), Arc::clone(slot));
            step = Box::new(UserLayer { layer, slot, inner: step });
        }
        Self::Some(step)
    }
}

impl<S: SyncService> SyncService for UserLayers<S> {
    #[inline]
    fn call(&self, scope: &CallScope<'_>, reply: &mut Reply) -> Result<(), Error> {
        match self {
            Self::None(inner) => inner.call(scope, reply),
            Self::Some(layered) => layered.call(scope, reply),
        }
    }
}

impl<S: AsyncService> AsyncService for UserLayers<S> {
    async fn call_async<'a>(
        &'a self,
        scope: &'a CallScope<'a>,
        reply: &'a mut Reply,
    ) -> Result<(), Error> {
        match self {
            Self::None(inner) => inner.call_async(scope, reply).await,
            // Its layers would hold up the thread that runs the tasks.
            Self::Some(_) => Err(bug!("a task went through layers of the application")),
        }
    }
}

impl<S> fmt::Debug for UserLayers<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserLayers").finish_non_exhaustive()
    }
}
