//! Who was chosen for each contract, so that a choice is told when it is made or changes, and not
//! at each call.

use std::collections::BTreeMap;
use std::sync::Mutex;

use semver::VersionReq;

use crate::event::{EventBus, HostEvent};
use crate::id::PluginName;
use crate::sync::lock;

/// The choices that are remembered; where there are more, all are forgotten and told again.
const MAX_CHOICES: usize = 1024;

/// Who was chosen in one host.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// By contract, and the versions of it that are accepted.
    made: Mutex<BTreeMap<(String, String), PluginName>>,
}

impl Choices {
    /// Notes who is tried first; tells the board if that is news. With nobody, what was chosen
    /// is forgotten.
    pub(crate) fn note(
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
        if !self.is_news(key, chosen) {
            return;
        }
        tracing::info!(contract, plugin = %chosen, ?others, "provider chosen");
        events.emit(HostEvent::ProviderChosen {
            contract: contract.to_owned(),
            plugin: chosen.clone(),
            others: others.to_vec(),
        });
    }

    fn is_news(&self, key: (String, String), chosen: &PluginName) -> bool {
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
    fn a_choice_is_told_when_it_is_made_when_it_changes_and_when_it_is_made_again() {
        let (_owner, events) = EventBus::new();
        let mut received = events.subscribe();
        let choices = Choices::default();
        let mut check = |contract: &str, accepted: &str, in_order: &[&str], is_told: bool| {
            let names: Vec<_> =
                in_order.iter().map(|name| PluginName::new(name).unwrap()).collect();
            choices.note(contract, &accepted.parse().unwrap(), &names, &events);
            match received.try_next() {
                Some(HostEvent::ProviderChosen { contract: told, plugin, others }) => {
                    assert!(is_told, "{contract} {in_order:?}");
                    assert_eq!(
                        (told.as_str(), &plugin, &*others),
                        (contract, &names[0], &names[1..])
                    );
                }
                other => assert!(!is_told && other.is_none(), "{contract} {in_order:?}: {other:?}"),
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
    fn so_many_choices_are_remembered_and_no_more() {
        let (_owner, events) = EventBus::new();
        let choices = Choices::default();
        let names = [PluginName::new("a").unwrap()];
        for contract in 0..3 * MAX_CHOICES {
            choices.note(&contract.to_string(), &VersionReq::STAR, &names, &events);
            assert!(lock(&choices.made).len() <= MAX_CHOICES);
        }
    }
}
