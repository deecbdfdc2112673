//! The order in which providers of a contract are tried: first those that the application names,
//! then by where they run, then by name. Pure: plugins are looked up elsewhere. Keeps the first one
//! of each contract, so that an event is emitted when that changes, and not at each call.

use std::collections::BTreeMap;
use std::sync::Mutex;

use semver::VersionReq;

use crate::event::{EventBus, HostEvent};
use crate::id::PluginName;
use crate::sync::lock;

/// Which providers of a contract are tried first, if the application names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preference {
    /// Compiled-in plugins, then libraries, then processes.
    #[default]
    Internal,
    /// Libraries, then processes, then compiled-in plugins: installed plugins replace those of
    /// the program.
    External,
}

/// The place where a provider runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    CompiledIn,
    Library,
    Process,
}

/// The preferences of an application.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preferences {
    pub(crate) general: Preference,
    by_contract: BTreeMap<String, Vec<PluginName>>,
}

/// The rank of a provider; the least is tried first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    preferred: usize,
    location: u8,
    name: PluginName,
}

impl Preferences {
    /// Sets the names that come first for a contract.
    pub(crate) fn put_first(&mut self, contract: String, names: Vec<PluginName>) {
        self.by_contract.insert(contract, names);
    }

    /// Returns the rank of `name` among the providers of `requested`, which is `contract` or
    /// another name of it.
    pub(crate) fn rank(
        &self,
        requested: &str,
        contract: &str,
        name: &PluginName,
        location: Location,
    ) -> Rank {
        let named = self.by_contract.get(requested).or_else(|| self.by_contract.get(contract));
        let preferred = named.and_then(|names| names.iter().position(|one| one == name));
        let location = match (self.general, location) {
            (Preference::Internal, Location::CompiledIn) => 0,
            (_, Location::Library) => 1,
            (_, Location::Process) => 2,
            (Preference::External, Location::CompiledIn) => 3,
        };
        Rank { preferred: preferred.unwrap_or(usize::MAX), location, name: name.clone() }
    }
}

/// Maximum of remembered choices; beyond it, all are forgotten and emitted again.
const MAX_CHOICES: usize = 1024;

/// The chosen providers of one host.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// By contract and accepted versions.
    made: Mutex<BTreeMap<(String, String), PluginName>>,
}

impl Choices {
    /// Records which provider is tried first, and emits an event if that is new. Without providers
    /// the choice is forgotten.
    pub(crate) fn record(
        &self,
        contract: &str,
        accepted: &VersionReq,
        in_order: &[PluginName],
        events: &EventBus,
    ) {
        let key = (contract.to_owned(), accepted.to_string());
        let Some((chosen, others)) = in_order.split_first() else {
            lock(&self.made).remove(&key);
            return;
        };
        if !self.is_new(key, chosen) {
            return;
        }
        tracing::info!(contract, plugin = %chosen, ?others, "provider chosen");
        events.emit(HostEvent::ProviderChosen {
            contract: contract.to_owned(),
            plugin: chosen.clone(),
            others: others.to_vec(),
        });
    }

    fn is_new(&self, key: (String, String), chosen: &PluginName) -> bool {
        let mut made = lock(&self.made);
        if made.get(&key) == Some(chosen) {
            return false;
        }
        if made.len() >= MAX_CHOICES && !made.contains_key(&key) {
            made.clear();
        }
        made.insert(key, chosen.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        PluginName::new(text).unwrap()
    }

    #[test]
    fn preferred_names_come_first_then_location_then_name() {
        let check = |general, first: &[&str], requested: &str, expected: &[&str]| {
            let mut preferences = Preferences { general, ..Preferences::default() };
            preferences.put_first("table".to_owned(), first.iter().map(|one| name(one)).collect());
            let mut ranks: Vec<_> = [
                ("b", Location::Library),
                ("a", Location::Process),
                ("d", Location::CompiledIn),
                ("c", Location::CompiledIn),
            ]
            .map(|(plugin, location)| preferences.rank(requested, "table", &name(plugin), location))
            .into();
            ranks.sort();
            let names: Vec<_> = ranks.iter().map(|rank| rank.name.as_str()).collect();
            assert_eq!(names, expected);
        };
        use Preference::{External, Internal};
        check(Internal, &[], "table", &["c", "d", "b", "a"]);
        check(External, &[], "table", &["b", "a", "c", "d"]);
        check(Internal, &["a", "gone", "d"], "table", &["a", "d", "c", "b"]);
        check(External, &["d"], "its-alias", &["d", "b", "a", "c"]);
    }

    #[test]
    fn choice_emits_event_when_made_changed_or_made_again() {
        let (_owner, events) = EventBus::new();
        let mut received = events.subscribe();
        let choices = Choices::default();
        let mut check = |contract: &str, accepted: &str, in_order: &[&str], is_new: bool| {
            let names: Vec<_> =
                in_order.iter().map(|name| PluginName::new(name).unwrap()).collect();
            choices.record(contract, &accepted.parse().unwrap(), &names, &events);
            match received.try_next() {
                Some(HostEvent::ProviderChosen { contract: chosen_for, plugin, others }) => {
                    assert!(is_new, "{contract} {in_order:?}");
                    assert_eq!(
                        (chosen_for.as_str(), &plugin, &*others),
                        (contract, &names[0], &names[1..])
                    );
                }
                other => assert!(!is_new && other.is_none(), "{contract} {in_order:?}: {other:?}"),
            }
        };
        check("table", "*", &["a", "b"], true);
        check("table", "*", &["a", "b"], false);
        check("table", "*", &["a"], false);
        check("text", "*", &["a"], true);
        check("table", "^2", &["b"], true);
        check("table", "*", &["a", "b"], false);
        check("table", "*", &["b", "a"], true);
        check("table", "*", &[], false);
        check("table", "*", &["b"], true);
    }

    #[test]
    fn number_of_remembered_choices_is_bounded() {
        let (_owner, events) = EventBus::new();
        let choices = Choices::default();
        let names = [PluginName::new("a").unwrap()];
        for contract in 0..3 * MAX_CHOICES {
            choices.record(&contract.to_string(), &VersionReq::STAR, &names, &events);
            assert!(lock(&choices.made).len() <= MAX_CHOICES);
        }
    }
}
