//! Typed calls of providers: the transport of a proxy that calls the first provider which serves the
//! contract, and the next one if it fails.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use hotbay_plugin::TraceContext;
use hotbay_plugin::contract::internal::{ArgumentTypes, Method, ProviderTransport, WithOptions};
use hotbay_plugin::contract::{CallError, Contract, Stream, Transport};
use semver::VersionReq;
use tokio_util::sync::CancellationToken;

use super::Providers;
use super::fallback::{Attempts, OnFailure, RetryPolicy};
use crate::contracts::KnownContract;
use crate::handle::{CallOptions, DirectTransport};
use crate::id::PluginName;

/// Calls the plugins that serve a contract, in order of preference.
///
/// Created by [`Host::providers_of`](crate::Host::providers_of).
#[derive(Clone)]
pub struct ProvidersTransport {
    providers: Providers,
    contract: Arc<KnownContract>,
    /// `None` if no option is set.
    options: Option<Arc<CallOptions>>,
}

impl ProvidersTransport {
    /// Creates the transport of providers that serve `contract`.
    pub(crate) fn new(providers: Providers, contract: Arc<KnownContract>) -> Self {
        Self { providers, contract, options: None }
    }

    /// Returns the current providers that serve the contract, in the order in which they are tried.
    pub fn names(&self) -> Vec<PluginName> {
        self.providers.names()
    }

    fn with_options(mut self, set: impl FnOnce(&mut CallOptions)) -> Self {
        set(Arc::make_mut(self.options.get_or_insert_default()));
        self
    }

    /// Begins a call: all its attempts have the same deadline.
    fn begin(&self) -> (Option<Arc<CallOptions>>, Attempts) {
        let options = self.options.as_ref().map(|options| match options.timeout {
            None => Arc::clone(options),
            Some(_) => Arc::new(CallOptions {
                deadline: options.deadline(),
                ..CallOptions::clone(options)
            }),
        });
        let policy = match &options {
            Some(options) => RetryPolicy::new(options.is_idempotent, options.deadline),
            None => RetryPolicy::new(false, None),
        };
        (options, Attempts::new(self.providers.on_failure, policy))
    }

    /// Calls the providers in order, until one answers or the call must not be repeated.
    fn call_each<T>(
        &self,
        call: impl Fn(DirectTransport) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let found = self.providers.find()?;
        let (options, mut attempts) = self.begin();
        for plugin in &found.in_order {
            match call(plugin.transport(&self.contract, options.as_ref())) {
                Ok(output) => return Ok(output),
                Err(error) => match attempts.failed(plugin, error.into()) {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(()) => break,
                },
            }
        }
        Err(attempts.error().into())
    }
}

impl Transport for ProvidersTransport {
    fn call<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        self.call_each(|transport| transport.call::<C, M>(arguments))
    }

    async fn call_async<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        let found = self.providers.find()?;
        let (options, mut attempts) = self.begin();
        for plugin in &found.in_order {
            let transport = plugin.transport(&self.contract, options.as_ref());
            match transport.call_async::<C, M>(arguments).await {
                Ok(output) => return Ok(output),
                Err(error) => match attempts.failed(plugin, error.into()) {
                    ControlFlow::Continue(()) => {}
                    ControlFlow::Break(()) => break,
                },
            }
        }
        Err(attempts.error().into())
    }

    fn call_stream<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError> {
        self.call_each(|transport| transport.call_stream::<C, M>(arguments))
    }
}

impl WithOptions for ProvidersTransport {
    type Token = CancellationToken;

    fn with_timeout(self, timeout: Duration) -> Self {
        self.with_options(|options| options.timeout = Some(timeout))
    }

    fn with_cancellation_token(self, token: CancellationToken) -> Self {
        self.with_options(|options| options.token = Some(token))
    }

    fn with_trace(self, trace: TraceContext) -> Self {
        self.with_options(|options| options.trace = Some(trace))
    }
}

impl ProviderTransport for ProvidersTransport {
    type OnFailure = OnFailure;
    type Accepted = VersionReq;

    fn on_failure(self, on_failure: OnFailure) -> Self {
        Self { providers: self.providers.on_failure(on_failure), ..self }
    }

    fn accepting(self, accepted: VersionReq) -> Self {
        Self { providers: self.providers.accepting(accepted), ..self }
    }

    fn idempotent(self) -> Self {
        self.with_options(|options| options.is_idempotent = true)
    }
}

impl fmt::Debug for ProvidersTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvidersTransport").field("providers", &self.providers).finish()
    }
}
