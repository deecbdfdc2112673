//! Plugins that are compiled into the program: functions, and the factories of a host by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use hotbay_manifest::Manifest;
use hotbay_plugin::contract::internal::{Description, RawContract, ServedBy};
use hotbay_plugin::{CallContext, Config, HostServices, Output, Payload, Plugin, PluginError};

use super::registry::nearest;
use super::service::Service;
use crate::boundary::{Contracts, Instance};
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::loader::{Constructor, Source};

pub(super) type Construct = Arc<dyn Fn(&Config) -> Result<Instance, PluginError> + Send + Sync>;

/// The factories of a host by kind.
#[derive(Clone, Default)]
pub(super) struct Factories(pub(super) BTreeMap<String, Construct>);

impl Factories {
    /// Returns the constructor of a plugin of this kind.
    pub(super) fn construct(&self, kind: &str) -> Result<Constructor, Error> {
        let Self(factories) = self;
        let Some(construct) = factories.get(kind) else {
            let error = Error::new(ErrorKind::NotFound, format!("factory `{kind}` not found"));
            let hint = nearest(kind, factories.keys().map(String::as_str), "registered factories");
            return Err(error.with_hint(hint.unwrap_or_else(|| {
                "register it with `HostBuilder::register_factory`".to_owned()
            })));
        };
        let construct = Arc::clone(construct);
        Ok(Constructor(Box::new(move |config| construct(config))))
    }
}

pub(super) fn manifest_of(name: &str) -> Result<Manifest, Error> {
    Manifest::new(name, "0.0.0").map_err(|error| not_registered(name).caused_by(error))
}

pub(super) fn not_registered(name: &str) -> Error {
    match PluginName::new(name) {
        Ok(name) => Error::new(ErrorKind::Manifest, "cannot be registered").of(&name),
        Err(_) => Error::new(ErrorKind::Manifest, format!("plugin `{name}` cannot be registered")),
    }
}

pub(super) fn function_source<F>(function: F) -> Source
where
    F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
{
    let construct =
        move |_: &Config| Ok(Instance::compiled_in(Function(function), Contracts::default()));
    Source::Value(Constructor(Box::new(construct)))
}

/// The contracts that a type of this program serves.
///
/// ```
/// use hotbay::Host;
/// use hotbay::contract::{CallError, Serves};
///
/// #[hotbay_plugin::contract(name = "greeting", version = "1.0")]
/// trait Greeting {
///     fn greet(&self, name: &str) -> Result<String, CallError>;
/// }
///
/// struct Polite;
///
/// impl Greeting for Polite {
///     fn greet(&self, name: &str) -> Result<String, CallError> {
///         Ok(format!("Good morning, {name}!"))
///     }
/// }
///
/// let host = Host::builder().serve("polite", Polite, Serves::new().with::<dyn Greeting>()).build()?;
/// let polite = host.contract::<dyn Greeting>("polite")?;
/// assert_eq!(polite.greet("Ada")?, "Good morning, Ada!");
/// # Ok::<(), hotbay::Error>(())
/// ```
pub struct Serves<T> {
    contracts: Vec<(&'static Description, RawContract)>,
    served_by: PhantomData<fn() -> T>,
}

impl<T: 'static> Serves<T> {
    /// Creates a set without contracts.
    pub const fn new() -> Self {
        Self { contracts: Vec::new(), served_by: PhantomData }
    }

    /// Adds a contract, whose trait `T` implements.
    #[must_use]
    pub fn with<C: ServedBy<T, true> + ?Sized>(mut self) -> Self {
        self.contracts.push((C::DESCRIPTION, C::TABLE));
        self
    }

    /// Returns the tables; `what` cannot be registered if there is a mistake in them.
    pub(super) fn contracts(&self, what: &str) -> Result<Contracts, Error> {
        Contracts::compiled_in(&self.contracts)
            .map_err(|error| not_registered(what).caused_by(error))
    }
}

impl<T: 'static> Default for Serves<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Serves<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.contracts.iter().map(|(contract, _)| contract.name)).finish()
    }
}

#[cold]
pub(super) fn invalid_contract(name: &str) -> Error {
    Error::new(ErrorKind::Incompatible, format!("contract `{name}` is invalid"))
        .with_hint("describe it with `#[hotbay_plugin::contract]`")
}

/// Returns the source of a value that serves contracts and nothing else.
pub(super) fn served_source<T: Send + Sync + 'static>(value: T, contracts: Contracts) -> Source {
    let construct = move |_: &Config| Ok(Instance::compiled_in(ContractsOnly(value), contracts));
    Source::Value(Constructor(Box::new(construct)))
}

/// Returns the service of a value that serves a contract to plugins.
pub(super) fn service_of<C, T>(value: T) -> Result<Service, Error>
where
    C: ServedBy<T, true> + ?Sized,
    T: Send + Sync + 'static,
{
    let name = C::DESCRIPTION.name;
    let contracts = Contracts::compiled_in(&[(C::DESCRIPTION, C::TABLE)]);
    let contracts = contracts.map_err(|error| invalid_contract(name).caused_by(error))?;
    Ok(Service::new(name, Instance::compiled_in(ContractsOnly(value), contracts)))
}

/// A plugin that only serves contracts. Transparent, since the tables of the contracts take a `T`.
#[repr(transparent)]
struct ContractsOnly<T>(T);

impl<T: Send + Sync + 'static> Plugin for ContractsOnly<T> {
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Err(PluginError::new(500, "a value has no `init`"))
    }

    fn execute(&self, _: &CallContext<'_>, _: Payload<'_>) -> Result<Output, PluginError> {
        Err(PluginError::new(501, "the plugin only serves contracts"))
    }
}

impl fmt::Debug for Factories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// A plugin made of a function.
struct Function<F>(F);

impl<F> Plugin for Function<F>
where
    F: Fn(&CallContext<'_>, Payload<'_>) -> Result<Output, PluginError> + Send + Sync + 'static,
{
    fn init(_: &Config, _: HostServices) -> Result<Self, PluginError> {
        Err(PluginError::new(500, "a function has no `init`"))
    }

    fn execute(&self, ctx: &CallContext<'_>, input: Payload<'_>) -> Result<Output, PluginError> {
        (self.0)(ctx, input)
    }
}
