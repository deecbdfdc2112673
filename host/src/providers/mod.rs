//! Plugins by the contract that they provide instead of by name. Looks the providers up when the
//! host's plugins have changed, and tries them in order; never the same one twice for one call.

mod fallback;
mod offers;
mod selection;
mod serving;
mod typed;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use semver::VersionReq;

use crate::call::{Reply, Request};
use crate::contracts::KnownContract;
use crate::error::{Error, ErrorKind};
use crate::handle::{Execute, PluginHandle};
use crate::id::PluginName;
pub use fallback::OnFailure;
use fallback::{Attempts, RetryPolicy};
pub(crate) use offers::Offers;
pub use selection::Preference;
pub(crate) use selection::{Choices, Location, Preferences, Rank};
use serving::{first_serving, serving};
pub use typed::ProvidersTransport;

/// The plugins that provide a contract, created by [`Host::providers`](crate::Host::providers).
/// Cheap to clone.
///
/// They are looked up again when the host's plugins have changed, so a provider that was loaded or
/// swapped is used at once. This value stays valid even while there are none.
///
/// The first provider in the [order](Self::names) is called. If it fails, the next one is tried
/// (see [`on_failure`](Self::on_failure)):
///
/// - always if the call definitely did not run: `Quarantined`, `Overloaded`, `Retired`, `NotFound`,
///   `StartFailed`;
/// - if the request is [idempotent](Request::with_idempotent) and may have run: `Panicked`,
///   `Disconnected`, `Protocol`, `DeadlineExceeded` while the request itself has time left, and
///   `Plugin` with an error that is [retryable](hotbay_plugin::PluginError::is_retryable).
///
/// Any other error is returned.
///
/// ```
/// # use hotbay::{CallContext, Error, Host, Manifest, Output, Payload, Plugin, PluginError};
/// # use hotbay::{PluginName, Request};
/// # use hotbay::hotbay_plugin::{Config, HostServices};
/// # struct Upper;
/// # impl Plugin for Upper {
/// #     fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> { Ok(Self) }
/// #     fn execute(&self, _: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
/// #         Ok(Output::text(input.as_text()?.to_uppercase()))
/// #     }
/// # }
/// let manifest = |name| {
///     Manifest::new(name, "1.0.0")
///         .and_then(|manifest| manifest.with_contract("data-processor", "1.2.0"))
///         .expect("a manifest")
/// };
/// let host = Host::builder()
///     .register::<Upper>(manifest("fast"))
///     .register::<Upper>(manifest("thorough"))
///     .prefer_providers("data-processor", ["thorough"])
///     .build()?;
/// let processors = host.providers("data-processor")?.accepting("^1.1".parse().unwrap());
/// let names = processors.names();
/// assert_eq!(names.iter().map(PluginName::as_str).collect::<Vec<_>>(), ["thorough", "fast"]);
/// assert_eq!(processors.call(Request::text("a"))?.as_text()?, "A");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Providers {
    contract: Arc<str>,
    /// The contract that they must serve; `None` if they are called with bytes.
    typed: Option<Arc<KnownContract>>,
    accepted: VersionReq,
    on_failure: OnFailure,
    registry: Arc<dyn ProviderSource>,
    changes: Changes,
    /// The result of the last lookup, shared by clones.
    found: Arc<ArcSwapOption<Found>>,
}

/// Looks up providers.
pub(crate) trait ProviderSource: Send + Sync {
    /// Returns the providers of a contract in the order in which they are tried.
    fn look_up(&self, contract: &str, accepted: &VersionReq) -> Result<Vec<PluginHandle>, Error>;

    /// Records the current order of the providers, which may be empty.
    fn chosen(&self, contract: &str, accepted: &VersionReq, in_order: &[PluginName]);
}

/// Counts the changes of a host's plugins; while the count is the same, so are the providers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<AtomicU64>);

impl Changes {
    /// Counts a change. The caller holds the lock of the registry.
    pub(crate) fn increment(&self) {
        // Release: a thread that sees the count and then looks up waits for this change.
        self.0.fetch_add(1, Ordering::Release);
    }

    /// Returns the count. Read before a lookup, so that a change during it is seen at the next.
    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The providers after a number of changes.
struct Found {
    changes: u64,
    in_order: Box<[PluginHandle]>,
}

impl Providers {
    /// Creates the providers of a contract, which serve `typed` if it is given; fails if there are
    /// none now.
    pub(crate) fn new(
        contract: &str,
        typed: Option<Arc<KnownContract>>,
        registry: Arc<dyn ProviderSource>,
        changes: Changes,
    ) -> Result<Self, Error> {
        let (accepted, contract) = (VersionReq::STAR, contract.into());
        let (on_failure, found) = (OnFailure::default(), Arc::default());
        let new = Self { contract, typed, accepted, on_failure, registry, changes, found };
        new.look_up()?;
        Ok(new)
    }

    /// Accepts only providers whose version of the contract matches `accepted`. Without any, calls
    /// return `NotFound`.
    #[must_use]
    pub fn accepting(self, accepted: VersionReq) -> Self {
        Self { accepted, found: Arc::default(), ..self }
    }

    /// Sets the policy for calls whose provider failed. Default: [`OnFailure::NextProvider`].
    #[must_use]
    pub fn on_failure(self, on_failure: OnFailure) -> Self {
        Self { on_failure, ..self }
    }

    /// Returns the contract.
    pub fn contract(&self) -> &str {
        &self.contract
    }

    /// Returns the current providers in the order in which they are tried; empty if none is left,
    /// or the host was dropped.
    ///
    /// The providers named by [`prefer_providers`](crate::HostBuilder::prefer_providers) come
    /// first. The others follow by where they run (see [`prefer`](crate::HostBuilder::prefer)),
    /// then by name.
    pub fn names(&self) -> Vec<PluginName> {
        names(&self.look_up().unwrap_or_default())
    }

    /// Calls the first provider on this thread, as [`PluginHandle::call`] does, and the next one if
    /// it fails.
    ///
    /// # Errors
    ///
    /// `NotFound` if no plugin provides the contract anymore, `Shutdown`, and the errors of
    /// [`PluginHandle::call`]: that of the first provider, with the errors of the others in its
    /// message.
    pub fn call(&self, request: Request<'_>) -> Result<Reply, Error> {
        let found = self.find()?;
        let mut attempts = Attempts::new(self.on_failure, RetryPolicy::of(&request));
        for plugin in &found.in_order {
            match plugin.call(request.borrowed()) {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    if attempts.failed(plugin, error).is_break() {
                        break;
                    }
                }
            }
        }
        Err(attempts.error())
    }

    /// Queues a call for the workers of the first provider at once, as [`PluginHandle::execute`]
    /// does. The next one is tried if it fails.
    ///
    /// The future runs on any executor. Dropping it cancels the call. The request's bytes are
    /// copied for each provider but the last.
    ///
    /// # Errors
    ///
    /// The same as [`call`](Self::call) and [`PluginHandle::execute`].
    pub fn execute(
        &self,
        request: Request<'_>,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<> {
        let round = self.find().map(|found| Round::new(found, self.on_failure, request));
        // Queued here, and not when the future is first polled.
        let begun = round.map(|mut round| (round.next(), round));
        async move {
            let (mut attempt, mut round) = begun?;
            while let Some((plugin, answer)) = attempt {
                match answer.await {
                    Ok(reply) => return Ok(reply),
                    Err(error) => {
                        if round.attempts.failed(&plugin, error).is_break() {
                            break;
                        }
                        attempt = round.next();
                    }
                }
            }
            Err(round.attempts.error())
        }
    }

    /// Returns the first provider other than `caller` that `check` does not refuse.
    pub(crate) fn first_other(
        &self,
        caller: &PluginName,
        check: impl Fn(&PluginHandle) -> Result<(), Error>,
    ) -> Result<PluginHandle, Error> {
        let found = self.find()?;
        let others = found.in_order.iter().filter(|plugin| plugin.name() != caller);
        first_serving(others, check)?.ok_or_else(|| {
            let message =
                format!("neither the host nor another plugin serves contract `{}`", self.contract);
            let hint = "serve it with `HostBuilder::service`, or load a plugin that serves it";
            Error::new(ErrorKind::NotFound, message).with_hint(hint)
        })
    }

    /// Returns the current providers, at least one; looks them up if the host's plugins changed.
    fn find(&self) -> Result<Arc<Found>, Error> {
        let changes = self.changes.count();
        match self.found.load_full() {
            Some(found) if found.changes == changes => Ok(found),
            _ => self.look_up_again(changes),
        }
    }

    #[cold]
    fn look_up_again(&self, changes: u64) -> Result<Arc<Found>, Error> {
        let found = self.look_up();
        let in_order = found.as_ref().map(|found| names(found)).unwrap_or_default();
        self.registry.chosen(&self.contract, &self.accepted, &in_order);
        let found = Arc::new(Found { changes, in_order: found?.into() });
        self.found.store(Some(Arc::clone(&found)));
        Ok(found)
    }

    fn look_up(&self) -> Result<Vec<PluginHandle>, Error> {
        let found = self.registry.look_up(&self.contract, &self.accepted)?;
        match &self.typed {
            Some(contract) => serving(&contract.text.name, found, |plugin: &PluginHandle| {
                plugin.check_contract(contract)
            }),
            None => Ok(found),
        }
    }
}

/// A pooled call with its remaining providers.
struct Round {
    found: Arc<Found>,
    /// The index of the next provider.
    at: usize,
    /// `None` once the last provider has it.
    request: Option<Request<'static>>,
    attempts: Attempts,
}

impl Round {
    fn new(found: Arc<Found>, on_failure: OnFailure, request: Request<'_>) -> Self {
        let attempts = Attempts::new(on_failure, RetryPolicy::of(&request));
        Self { found, at: 0, request: Some(request.into_owned()), attempts }
    }

    /// Queues the call for the next provider, if any is left.
    fn next(&mut self) -> Option<(PluginHandle, Execute)> {
        let plugin = self.found.in_order.get(self.at)?.clone();
        self.at += 1;
        let is_last = self.at == self.found.in_order.len();
        let answer = match is_last {
            true => plugin.execute(self.request.take()?),
            false => plugin.execute(self.request.as_ref()?.borrowed()),
        };
        Some((plugin, answer))
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Providers")
            .field("contract", &self.contract)
            .field("accepted", &self.accepted.to_string())
            .finish_non_exhaustive()
    }
}

fn names(found: &[PluginHandle]) -> Vec<PluginName> {
    found.iter().map(|plugin| plugin.name().clone()).collect()
}
