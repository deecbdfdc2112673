//! Calls that plugins make: of services of the host, and of other plugins. What the loader and the
//! boundary know of them.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hotbay_plugin::abi::Bounds;
use hotbay_plugin::contract::internal::{CallFailure, OutgoingCall};
use hotbay_plugin::contract::{CallError, CallErrorKind, ContractText};
use hotbay_plugin::{CallContext, Output};

use crate::error::{Error, ErrorKind};
use crate::id::PluginName;

/// A plugin that calls, and its permissions.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: PluginName,
    pub(crate) granted: BTreeSet<String>,
    /// Permissions that its manifest requests and the application does not grant.
    pub(crate) withheld: BTreeSet<String>,
    /// The number of threads that make its calls.
    pub(crate) threads: Arc<AtomicUsize>,
}

/// Maximum number of threads that make calls of one plugin. A thread of a cancelled call counts until
/// the plugin called returns.
const MAX_CALL_THREADS: usize = 1024;

/// Counts a thread until it is dropped.
struct CallThread(Arc<AtomicUsize>);

impl Drop for CallThread {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Caller {
    /// Checks that the plugin has a permission.
    pub(crate) fn check(&self, permission: &str) -> Result<(), Error> {
        if self.granted.contains(permission) {
            return Ok(());
        }
        let message = format!("has no permission `{permission}`");
        let hint = if self.withheld.contains(permission) {
            "grant the permission in the application's permission policy; the manifest requests it"
                .to_owned()
        } else {
            format!("add `{permission}` to `permissions` in plugin.json")
        };
        Err(Error::new(ErrorKind::PermissionDenied, message).with_hint(hint).of(&self.name))
    }

    /// Makes a call on a new thread.
    pub(crate) fn call_on_thread(
        &self,
        call: impl FnOnce() + Send + 'static,
    ) -> Result<(), CallError> {
        let counted = CallThread(Arc::clone(&self.threads));
        if self.threads.fetch_add(1, Ordering::Relaxed) >= MAX_CALL_THREADS {
            let message =
                format!("more than {MAX_CALL_THREADS} threads wait for calls of `{}`", self.name);
            let hint = "start fewer calls at once; a cancelled call counts until it returns";
            return Err(CallError::new(CallErrorKind::Overloaded, message).with_hint(hint));
        }
        let call = move || {
            let _counted = counted;
            call();
        };
        let spawned = thread::Builder::new().name("hotbay-call".to_owned()).spawn(call);
        spawned.map(drop).map_err(|error| {
            let message = format!("cannot start a thread for the call: {error}");
            CallError::new(CallErrorKind::Overloaded, message)
        })
    }

    /// Checks that the plugin may call a contract.
    pub(crate) fn check_contract(&self, contract: &str) -> Result<(), Error> {
        self.check(&format!("contract:{contract}"))
    }
}

/// The result of a call that was started.
pub(crate) type OutgoingFuture = Pin<Box<dyn Future<Output = Result<Output, CallFailure>> + Send>>;

/// What plugins may call.
pub(crate) trait ContractCalls: fmt::Debug + Send + Sync {
    /// Finds the provider of a contract for `caller`: the plugin with this name, or the host, or else any
    /// plugin.
    fn bind(
        &self,
        caller: &Arc<Caller>,
        contract: ContractText,
        plugin: Option<&str>,
    ) -> Result<Arc<dyn BoundContract>, Error>;

    /// Returns the text of a contract as it is served, for a caller that has none.
    #[cfg_attr(not(all(unix, feature = "process")), allow(dead_code, reason = "for processes"))]
    fn text_of(
        &self,
        caller: &Arc<Caller>,
        contract: &str,
        plugin: Option<&str>,
    ) -> Result<ContractText, Error>;
}

/// A contract that a plugin calls.
pub(crate) trait BoundContract: Send + Sync {
    /// Calls a method on this thread.
    fn call(&self, call: &OutgoingCall<'_>) -> Result<Output, CallFailure>;

    /// Starts a call of an async method.
    fn start(&self, call: &OutgoingCall<'_>) -> Result<OutgoingFuture, CallFailure>;
}

/// Returns an error as it crosses to a plugin, which gets its whole message. The source does not cross.
#[cold]
pub(crate) fn crossing(error: Error) -> CallError {
    let message = error.full_message();
    let converted = CallError::from(error.cloned());
    let crossing = CallError::new(converted.kind(), message).with_source(error);
    let crossing = match converted.hint() {
        Some(hint) => crossing.with_hint(hint.to_owned()),
        None => crossing,
    };
    match converted.plugin_error() {
        Some(own) => crossing.with_plugin_error(own.clone()),
        None => crossing,
    }
}

/// The limits of a call that a plugin makes of a service: those of the call that it serves.
#[derive(Debug)]
pub(crate) struct OuterBounds<'a> {
    pub(crate) outer: Option<CallContext<'a>>,
    pub(crate) deadline: Option<Instant>,
}

impl Bounds for OuterBounds<'_> {
    fn is_cancelled(&self) -> bool {
        self.outer.is_some_and(|outer| outer.is_cancelled())
            || self.remaining().is_some_and(|left| left.is_zero())
    }

    fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }
}
