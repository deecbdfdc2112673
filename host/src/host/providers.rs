//! Finds the providers of a contract, in the order of preference.

use std::path::Path;
use std::sync::Weak;

use hotbay_manifest::{Isolation, Kind, Manifest, nearest};
use semver::VersionReq;

use super::inner::Inner;
use super::registry::shutting_down;
use crate::error::{Error, ErrorKind};
use crate::handle::PluginHandle;
use crate::id::PluginName;
use crate::providers::{Location, Offers, ProviderSource, Rank};

/// Finds providers without keeping the host alive.
pub(super) struct ProviderFinder {
    pub(super) host: Weak<Inner>,
    pub(super) caller: CallerKind,
}

/// Who calls the providers.
#[derive(Clone, Copy)]
pub(super) enum CallerKind {
    Application,
    /// A plugin, whose calls the services of the host can serve, too.
    Plugin,
}

impl ProviderSource for ProviderFinder {
    fn look_up(&self, contract: &str, accepted: &VersionReq) -> Result<Vec<PluginHandle>, Error> {
        let inner = self.host.upgrade().ok_or_else(shutting_down)?;
        let mut found = providing(&inner, contract, accepted)?;
        if found.is_empty() {
            return Err(not_provided(&inner, self.caller, contract, accepted));
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found.into_iter().map(|(_, handle)| handle).collect())
    }

    fn chosen(&self, contract: &str, accepted: &VersionReq, in_order: &[PluginName]) {
        if let Some(inner) = self.host.upgrade() {
            inner.choices.record(contract, accepted, in_order, &inner.context.events);
        }
    }
}

fn providing(
    host: &Inner,
    contract: &str,
    accepted: &VersionReq,
) -> Result<Vec<(Rank, PluginHandle)>, Error> {
    let provider = |manifest: &Manifest, folder: Option<&Path>, offers: &Offers, handle: &_| {
        let offer = offers.of(contract).find(|offer| offer.matches(accepted))?;
        let place = match (folder, manifest.kind()) {
            (None, _) => Location::CompiledIn,
            (Some(_), Kind::Library) if manifest.isolation() == Isolation::None => {
                Location::Library
            }
            (Some(_), Kind::Library | Kind::Process) => Location::Process,
        };
        let name = manifest.name();
        let rank = host.preferences.rank(contract, &offer.contract, name, place);
        Some((rank, PluginHandle::clone(handle)))
    };
    host.registry.with_entries(provider)
}

/// Returns the error for a contract that no serving plugin provides.
#[cold]
fn not_provided(host: &Inner, caller: CallerKind, contract: &str, accepted: &VersionReq) -> Error {
    let mut others = Vec::new();
    let mut known: Vec<String> = Vec::new();
    let visited = host.registry.with_entries(|manifest, _, offers, _| {
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
    let near = nearest(contract, known.iter().map(String::as_str));
    let hint = match (near, caller) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, CallerKind::Plugin) => {
            "serve it with `HostBuilder::service`, or load a plugin that serves it".to_owned()
        }
        (None, CallerKind::Application) if known.is_empty() => {
            "load a plugin that serves it".to_owned()
        }
        (None, CallerKind::Application) => {
            known.sort();
            known.dedup();
            known.truncate(8);
            format!("provided contracts: `{}`", known.join("`, `"))
        }
    };
    let message = match caller {
        CallerKind::Application => format!("no plugin provides contract `{contract}`"),
        CallerKind::Plugin => {
            format!("neither the host nor a plugin serves contract `{contract}`")
        }
    };
    Error::new(ErrorKind::NotFound, message).with_hint(hint)
}
