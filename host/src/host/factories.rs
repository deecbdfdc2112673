//! Plugins that are compiled into the program: functions, and the factories of a host by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hotbay_manifest::Manifest;
use hotbay_plugin::{CallContext, Config, HostServices, Output, Payload, Plugin, PluginError};

use super::registry::nearest;
use crate::boundary::Instance;
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
    let construct = move |_: &Config| Ok(Instance::compiled_in(Function(function)));
    Source::Value(Constructor(Box::new(construct)))
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
