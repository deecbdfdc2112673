//! Contracts of the host and of other plugins, as a plugin calls them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::call::{decode_result, encode_arguments};
use super::codec::Format;
use super::error::{CallError, CallErrorKind};
use super::host_functions::{self, CallFailure, OutgoingCall, RawHostFunctions};
use super::method::{ArgumentTypes, Method};
use super::proxy::{Contract, Proxy, Transport};
use super::stream::Stream;
use crate::context::with_context;
use crate::{ContentType, HostServices, Output};

/// Calls a contract of the host or of another plugin.
///
/// Created by [`HostServices::contract`] and [`HostServices::contract_of`]. Cheap to clone.
#[derive(Clone)]
pub struct ServiceTransport(Arc<Target>);

struct Target {
    functions: &'static RawHostFunctions,
    token: u64,
    /// What the host returned.
    id: u64,
    /// One bit per method: whether its arguments are needed as JSON.
    needs_json: AtomicU64,
    /// The name of the plugin, if the caller named it.
    plugin: Option<Box<str>>,
}

impl HostServices {
    /// Returns a value that implements the trait of a contract by calls of the host, or of a plugin
    /// that provides it.
    ///
    /// The service of the host takes precedence. Without one, the plugin that the application
    /// prefers among the providers is called; it is looked up at each call, so it may be reloaded
    /// or replaced at any time. The plugin itself is never its own provider.
    ///
    /// A call runs on this thread. It has the deadline, the cancellation and the trace of the call
    /// that the plugin serves meanwhile, or none on a thread that the plugin started. The value may be kept and
    /// called on any thread.
    ///
    /// Requires the permission `contract:NAME` with the name of the contract, and methods of a
    /// service of the host that have `#[permission]` require that one, too.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # {
    /// use hotbay_plugin::contract::{CallError, CallErrorKind};
    /// use hotbay_plugin::{HostServices, testing::FakeHost};
    ///
    /// #[hotbay_plugin::contract(name = "key-value", version = "1.0")]
    /// pub trait KeyValue {
    ///     fn get(&self, key: &str) -> Result<Option<String>, CallError>;
    /// }
    ///
    /// fn greeting(host: &HostServices) -> Result<String, CallError> {
    ///     let settings = host.contract::<dyn KeyValue>()?;
    ///     Ok(settings.get("greeting")?.unwrap_or_else(|| "Hello".to_owned()))
    /// }
    ///
    /// // A fake host has no contracts.
    /// let error = greeting(&FakeHost::new().services()).unwrap_err();
    /// assert_eq!(error.kind(), CallErrorKind::Unavailable);
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Unavailable` if neither the host nor a plugin serves the contract, if the plugin was stopped,
    /// or if the host is too old to offer contracts; `NotProvided` if a plugin provides a contract of
    /// this name that is not typed; `Other` if the version that is served is incompatible;
    /// `PermissionDenied`.
    ///
    /// Calls fail with these too, and with `Circular` if the plugin called waits for this call.
    pub fn contract<C: Contract + ?Sized>(&self) -> Result<Proxy<C, ServiceTransport>, CallError> {
        self.bind(None)
    }

    /// Returns a value that implements the trait of a contract by calls of the plugin with this
    /// name, as [`contract`](Self::contract) does.
    ///
    /// # Errors
    ///
    /// The same as [`contract`](Self::contract); `Unavailable` if the plugin is not found.
    pub fn contract_of<C: Contract + ?Sized>(
        &self,
        plugin: &str,
    ) -> Result<Proxy<C, ServiceTransport>, CallError> {
        self.bind(Some(plugin))
    }

    fn bind<C: Contract + ?Sized>(
        &self,
        plugin: Option<&str>,
    ) -> Result<Proxy<C, ServiceTransport>, CallError> {
        let functions = host_functions::connected().ok_or_else(not_offered)?;
        let token = self.token();
        let id = functions.bind(token, &C::DESCRIPTION.text(), plugin)?;
        let (needs_json, plugin) = (AtomicU64::new(0), plugin.map(Into::into));
        Ok(Proxy::new(ServiceTransport(Arc::new(Target {
            functions,
            token,
            id,
            needs_json,
            plugin,
        }))))
    }
}

#[cold]
fn not_offered() -> CallError {
    let message = "the host does not offer contracts";
    CallError::new(CallErrorKind::Unavailable, message)
        .with_hint("run the plugin in a host with plugin API 1.2 or later")
}

impl Target {
    fn format(&self, method: usize) -> Format {
        let needs_json = self.needs_json.load(Ordering::Relaxed) & bit_of(method) != 0;
        if needs_json { Format::Json } else { Format::Postcard }
    }

    /// Records that the plugin called has another signature for the method; returns whether that
    /// was not known to the caller of `format`.
    fn use_json(&self, method: usize, format: Format) -> bool {
        self.needs_json.fetch_or(bit_of(method), Ordering::Relaxed);
        format != Format::Json
    }
}

/// Returns the bit of a method; the last one is shared.
fn bit_of(method: usize) -> u64 {
    1 << method.min(63)
}

impl Transport for ServiceTransport {
    fn call<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        let target = &*self.0;
        loop {
            let format = target.format(M::INDEX);
            let bytes = encode_arguments::<M>(format, arguments)?;
            let outcome = with_context(|outer| {
                let (target, method, arguments) = (target.id, M::INDEX, &bytes[..]);
                let call = OutgoingCall { target, method, format, arguments, outer };
                self.0.functions.call(self.0.token, &call)
            });
            match outcome {
                Ok(output) => return result_of::<M>(&output),
                Err(CallFailure::WrongFormat) if target.use_json(M::INDEX, format) => {}
                Err(failure) => return Err(error_of(failure)),
            }
        }
    }

    async fn call_async<C: Contract + ?Sized, M: Method>(
        &self,
        arguments: &ArgumentTypes<'_, M>,
    ) -> Result<M::Output, CallError> {
        let target = &*self.0;
        loop {
            let format = target.format(M::INDEX);
            let bytes = encode_arguments::<M>(format, arguments)?;
            let task = with_context(|outer| {
                let (target, method, arguments) = (target.id, M::INDEX, &bytes[..]);
                let call = OutgoingCall { target, method, format, arguments, outer };
                self.0.functions.start(self.0.token, &call)
            });
            drop(bytes);
            match task.await {
                Ok(output) => return result_of::<M>(&output),
                Err(CallFailure::WrongFormat) if target.use_json(M::INDEX, format) => {}
                Err(failure) => return Err(error_of(failure)),
            }
        }
    }

    /// Fails: a plugin cannot open a stream.
    fn call_stream<C: Contract + ?Sized, M: Method>(
        &self,
        _: &ArgumentTypes<'_, M>,
    ) -> Result<Stream<M::Output>, CallError> {
        let message = "a plugin cannot open a stream of a service or of another plugin";
        Err(CallError::new(CallErrorKind::Other, message)
            .with_hint("call a method that returns a list, in pages if it is long"))
    }
}

/// Deserializes the result of a call.
fn result_of<M: Method>(output: &Output) -> Result<M::Output, CallError> {
    let is_json = output.content_type() == ContentType::JSON;
    let format = if is_json { Format::Json } else { Format::Postcard };
    decode_result::<M>(format, output.as_bytes())
}

#[cold]
fn error_of(failure: CallFailure) -> CallError {
    match failure {
        CallFailure::Failed(error) => error,
        CallFailure::WrongFormat => {
            CallError::new(CallErrorKind::InvalidInput, "the host accepts neither format")
        }
    }
}

impl fmt::Debug for ServiceTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceTransport").field("plugin", &self.0.plugin).finish_non_exhaustive()
    }
}
