//! The provider chosen for each contract, so that an event is emitted when a choice is made or
//! changes, and not at each call.

use std::collections::BTreeMap;
use std::sync::Mutex;

use semver::VersionReq;

use crate::event::{EventBus, HostEvent};
use crate::id::PluginName;
use crate::sync::lock;

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
