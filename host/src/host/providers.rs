//! Finds the providers of a contract, in the order of preference.

use std::path::Path;
use std::sync::{Arc, Weak};

use hotbay_manifest::{Kind, Manifest, nearest};
use semver::VersionReq;

use super::{Host, HostBuilder, Inner, shutting_down};
use crate::error::{Error, ErrorKind};
use crate::handle::PluginHandle;
use crate::id::{InvalidName, PluginName};
use crate::providers::{Location, Offers, Preference, ProviderSource, Providers, Rank};

impl Host {
    /// Returns the plugins that provide a contract: those whose manifests list it in `provides`. See
    /// [`Providers`].
    ///
    /// # Errors
    ///
    /// `NotFound` if no serving plugin provides it, with the nearest provided contract as the hint.
    pub fn providers(&self, contract: &str) -> Result<Providers, Error> {
        let registry = Arc::new(ProviderFinder(Arc::downgrade(&self.inner)));
        Providers::new(contract, registry, self.inner.registry.changes.clone())
    }
}

impl HostBuilder {
    /// Sets the plugins that are tried first for a contract, in this order. The others follow in the
    /// order of [`prefer`](Self::prefer). The last call for a contract applies. The plugins need not
    /// be loaded.
    pub fn prefer_providers<N: AsRef<str>>(
        mut self,
        contract: impl Into<String>,
        plugins: impl IntoIterator<Item = N>,
    ) -> Self {
        let contract = contract.into();
        let names = plugins.into_iter().map(|plugin| PluginName::new(plugin.as_ref()));
        match names.collect::<Result<_, InvalidName>>() {
            Ok(names) => self.preferences.put_first(contract, names),
            Err(error) => {
                let message = format!("a provider of `{contract}` cannot be preferred");
                let error = Error::new(ErrorKind::NotFound, message).caused_by(error);
                self.invalid.get_or_insert(error);
            }
        }
        self
    }

    /// Sets which kind of provider comes first among those that
    /// [`prefer_providers`](Self::prefer_providers) does not list. Default:
    /// [`Preference::Internal`].
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.preferences.general = preference;
        self
    }
}

/// Finds providers without keeping the host alive.
struct ProviderFinder(Weak<Inner>);

impl ProviderSource for ProviderFinder {
    fn look_up(&self, contract: &str, accepted: &VersionReq) -> Result<Vec<PluginHandle>, Error> {
        let inner = self.0.upgrade().ok_or_else(shutting_down)?;
        let mut found = inner.providing(contract, accepted)?;
        if found.is_empty() {
            return Err(inner.not_provided(contract, accepted));
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found.into_iter().map(|(_, handle)| handle).collect())
    }

    fn chosen(&self, contract: &str, accepted: &VersionReq, in_order: &[PluginName]) {
        if let Some(inner) = self.0.upgrade() {
            inner.choices.record(contract, accepted, in_order, &inner.context.events);
        }
    }
}

impl Inner {
    fn providing(
        &self,
        contract: &str,
        accepted: &VersionReq,
    ) -> Result<Vec<(Rank, PluginHandle)>, Error> {
        let provider = |manifest: &Manifest, folder: Option<&Path>, offers: &Offers, handle: &_| {
            let offer = offers.of(contract).find(|offer| offer.matches(accepted))?;
            let place = match (folder, manifest.kind()) {
                (None, _) => Location::CompiledIn,
                (Some(_), Kind::Library) => Location::Library,
                (Some(_), Kind::Process) => Location::Process,
            };
            let name = manifest.name();
            let rank = self.preferences.rank(contract, &offer.contract, name, place);
            Some((rank, PluginHandle::clone(handle)))
        };
        self.registry.with_entries(provider)
    }

    /// Returns the error for a contract that no serving plugin provides.
    #[cold]
    fn not_provided(&self, contract: &str, accepted: &VersionReq) -> Error {
        let mut others = Vec::new();
        let mut known: Vec<String> = Vec::new();
        let visited = self.registry.with_entries(|manifest, _, offers, _| {
            known.extend(offers.names().map(str::to_owned));
            let versions = offers.of(contract).map(|offer| match &offer.version {
                Some(version) => format!("{version} from `{}`", manifest.name()),
                None => format!("an undeclared version from `{}`", manifest.name()),
            });
            others.extend(versions);
            None::<()>
        });
        if let Err(error) = visited {
            return error;
        }
        if !others.is_empty() {
            let message = format!(
                "no version of contract `{contract}` matches `{accepted}`: found {}",
                others.join(", ")
            );
            return Error::new(ErrorKind::NotFound, message);
        }
        let hint = match nearest(contract, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "no loaded plugin provides a contract".to_owned(),
            None => {
                known.sort();
                known.dedup();
                known.truncate(8);
                format!("provided contracts: `{}`", known.join("`, `"))
            }
        };
        let message = format!("no plugin provides contract `{contract}`");
        Error::new(ErrorKind::NotFound, message).with_hint(hint)
    }
}
