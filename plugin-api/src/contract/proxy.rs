//! Contracts and their proxies. A proxy implements the contract's trait by calls through a transport:
//! the host's, or that of a plugin which calls another.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::error::{CallError, CallErrorKind};
use super::method::{ArgumentTypes, Method};
use super::served::ServedMethod;
use super::shape::Description;
use super::stream::Stream;
use super::table::{RawContract, RawMethod};
use crate::TraceContext;

/// A contract: implemented for `dyn Trait` by `#[hotbay_plugin::contract]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a contract",
    note = "write `dyn Trait`, and put `#[hotbay_plugin::contract]` on the trait"
)]
pub trait Contract: 'static {
    /// The contract as data.
    const DESCRIPTION: &'static Description;
}

/// A contract that values of the type `T` serve: implemented for `dyn Trait` if `T` implements the
/// trait. `LINKED` is `true` if `T` is compiled into the host.
pub trait ServedBy<T: 'static, const LINKED: bool>: Contract {
    /// The functions of its methods.
    const METHODS: &'static [RawMethod];
    /// Its methods, for a program.
    const SERVED: &'static [ServedMethod<T>];
    /// The table.
    const TABLE: RawContract = RawContract::new(Self::DESCRIPTION.name, Self::METHODS);
}

/// How a proxy reaches the plugin.
pub trait Transport: Send + Sync + 'static {
    /// Calls a method of the contract `C`.
    ///
    /// # Errors
    ///
    /// Those of the call, and of the method. `NotProvided` if the plugin has no such method; then it
    /// was not called.
    fn call<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError>;

    /// Calls an async method of the contract `C`. Dropping the future cancels the call.
    ///
    /// # Errors
    ///
    /// The same as [`call`](Self::call).
    fn call_async<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> impl Future<Output = Result<M::Output, CallError>> + Send;

    /// Calls a method of the contract `C` that returns a stream of items of the type `M::Output`.
    ///
    /// # Errors
    ///
    /// The same as [`call`](Self::call). Failures after that are items of the stream.
    fn call_stream<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError>;
}

/// A value that implements the trait of the contract `C` by calls through `T`.
///
/// The host creates it. Its methods return the trait's error type, converted from a [`CallError`].
pub struct Proxy<C: ?Sized, T> {
    transport: T,
    contract: PhantomData<fn(&C)>,
}

impl<C: Contract + ?Sized, T> Proxy<C, T> {
    /// Creates a proxy.
    pub const fn new(transport: T) -> Self {
        Self { transport, contract: PhantomData }
    }

    /// Returns the transport.
    pub const fn transport(&self) -> &T {
        &self.transport
    }
}

impl<C: Contract + ?Sized, T: Transport> Proxy<C, T> {
    /// Calls a method.
    ///
    /// # Errors
    ///
    /// See [`Transport::call`].
    #[doc(hidden)]
    #[inline(always)]
    pub fn __call<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        self.transport.call::<C, M>(arguments)
    }

    /// Calls an async method.
    ///
    /// # Errors
    ///
    /// See [`Transport::call_async`].
    #[doc(hidden)]
    pub fn __call_async<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> impl Future<Output = Result<M::Output, CallError>> + Send {
        self.transport.call_async::<C, M>(arguments)
    }

    /// Calls a method that returns a stream.
    ///
    /// # Errors
    ///
    /// See [`Transport::call_stream`].
    #[doc(hidden)]
    pub fn __call_stream<M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError> {
        self.transport.call_stream::<C, M>(arguments)
    }
}

/// The transport of a host, with options of calls.
#[doc(hidden)]
pub trait WithOptions: Transport + Clone {
    /// The host's cancellation token.
    type Token;

    /// Sets a time limit for each call.
    #[must_use]
    fn with_timeout(self, timeout: Duration) -> Self;

    /// Sets the token that cancels calls.
    #[must_use]
    fn with_cancellation_token(self, token: Self::Token) -> Self;

    /// Sets the trace that calls belong to.
    #[must_use]
    fn with_trace(self, trace: TraceContext) -> Self;
}

/// The transport to one plugin of a host, which offers other ways to call.
#[doc(hidden)]
pub trait HostTransport: WithOptions {
    /// Calls one generation of the plugin.
    type Pinned: Transport;
    /// Calls on the plugin's workers.
    type Pooled: Transport;
    /// The error of the host.
    type Error;

    /// Pins the current generation.
    fn pin(&self) -> Result<Self::Pinned, Self::Error>;

    /// Calls on the plugin's workers.
    fn pooled(&self) -> Self::Pooled;
}

/// The transport to any of a host's plugins that serve the contract.
#[doc(hidden)]
pub trait ProviderTransport: WithOptions {
    /// The host's policy for calls whose provider failed.
    type OnFailure;
    /// The host's type of accepted versions.
    type Accepted;

    /// Sets the policy for calls whose provider failed.
    #[must_use]
    fn on_failure(self, on_failure: Self::OnFailure) -> Self;

    /// Sets the accepted versions.
    #[must_use]
    fn accepting(self, accepted: Self::Accepted) -> Self;

    /// Makes calls idempotent.
    #[must_use]
    fn idempotent(self) -> Self;
}

impl<C: Contract + ?Sized, T: HostTransport> Proxy<C, T> {
    /// Pins the current generation of the plugin, for many calls without a lookup for each. Its
    /// unload waits until the result is dropped. Once another generation is current, its calls fail
    /// with `Unavailable`.
    ///
    /// # Errors
    ///
    /// The host's, if the plugin is unloaded.
    pub fn pin(&self) -> Result<Proxy<C, T::Pinned>, T::Error> {
        self.transport.pin().map(Proxy::new)
    }

    /// Returns a proxy whose calls run on the plugin's workers, and return at their deadline whatever
    /// the plugin does. Arguments and results are serialized. Its methods block, also in async code.
    pub fn pooled(&self) -> Proxy<C, T::Pooled> {
        Proxy::new(self.transport.pooled())
    }
}

impl<C: Contract + ?Sized, T: ProviderTransport> Proxy<C, T> {
    /// Returns a proxy with another policy for calls whose provider failed.
    #[must_use]
    pub fn on_failure(&self, on_failure: T::OnFailure) -> Self {
        Self::new(self.transport.clone().on_failure(on_failure))
    }

    /// Returns a proxy that calls only providers whose version of the contract is accepted. Without
    /// any, calls fail with `Unavailable`.
    #[must_use]
    pub fn accepting(&self, accepted: T::Accepted) -> Self {
        Self::new(self.transport.clone().accepting(accepted))
    }

    /// Returns a proxy whose calls may be repeated, by the next provider too, after they may have
    /// run.
    #[must_use]
    pub fn idempotent(&self) -> Self {
        Self::new(self.transport.clone().idempotent())
    }
}

impl<C: Contract + ?Sized, T: WithOptions> Proxy<C, T> {
    /// Returns a proxy whose calls have a deadline `timeout` after they start.
    ///
    /// A call that has not started by then never starts. The plugin of a running call can query
    /// its deadline; only the calls of [`pooled`](Proxy::pooled) return at it.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self::new(self.transport.clone().with_timeout(timeout))
    }

    /// Returns a proxy whose calls are cancelled when `token` is.
    #[must_use]
    pub fn with_cancellation_token(&self, token: T::Token) -> Self {
        Self::new(self.transport.clone().with_cancellation_token(token))
    }

    /// Returns a proxy whose calls belong to this trace.
    #[must_use]
    pub fn with_trace(&self, trace: TraceContext) -> Self {
        Self::new(self.transport.clone().with_trace(trace))
    }
}

impl<C: ?Sized, T: Clone> Clone for Proxy<C, T> {
    fn clone(&self) -> Self {
        Self { transport: self.transport.clone(), contract: PhantomData }
    }
}

impl<C: Contract + ?Sized, T: fmt::Debug> fmt::Debug for Proxy<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("contract", &C::DESCRIPTION.name)
            .field("transport", &self.transport)
            .finish()
    }
}

/// Returns whether a call failed because the plugin has no such method.
#[doc(hidden)]
pub fn is_not_provided(error: &CallError) -> bool {
    error.kind() == CallErrorKind::NotProvided
}
