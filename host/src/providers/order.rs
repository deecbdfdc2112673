//! In which order the providers of a contract are tried: those that the application prefers,
//! then by where they run, then by name. Pure: plugins are looked up elsewhere.

use std::collections::BTreeMap;

use crate::id::PluginName;

/// Which providers of a contract are tried first, where nothing is said about it by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preference {
    /// Those that are compiled in, then libraries, then processes.
    #[default]
    Internal,
    /// Libraries, then processes, then those that are compiled in: what is installed replaces
    /// what the program brings along.
    External,
}

/// Where a provider runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    CompiledIn,
    Library,
    Process,
}

/// What an application says about providers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preferences {
    pub(crate) general: Preference,
    by_contract: BTreeMap<String, Vec<PluginName>>,
}

/// Where a provider stands; the least is tried first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    preferred: usize,
    place: u8,
    name: PluginName,
}

impl Preferences {
    /// Puts these first for a contract, in place of those that were.
    pub(crate) fn put_first(&mut self, contract: String, names: Vec<PluginName>) {
        self.by_contract.insert(contract, names);
    }

    /// Where `name` stands among those who provide what is called `asked`, and `contract` by
    /// itself.
    pub(crate) fn rank(
        &self,
        asked: &str,
        contract: &str,
        name: &PluginName,
        place: Place,
    ) -> Rank {
        let named = self.by_contract.get(asked).or_else(|| self.by_contract.get(contract));
        let preferred = named.and_then(|names| names.iter().position(|one| one == name));
        let place = match (self.general, place) {
            (Preference::Internal, Place::CompiledIn) => 0,
            (_, Place::Library) => 1,
            (_, Place::Process) => 2,
            (Preference::External, Place::CompiledIn) => 3,
        };
        Rank { preferred: preferred.unwrap_or(usize::MAX), place, name: name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        PluginName::new(text).unwrap()
    }

    #[test]
    fn names_come_before_places_and_places_before_the_alphabet() {
        let check = |general, first: &[&str], asked: &str, wanted: &[&str]| {
            let mut preferences = Preferences { general, ..Preferences::default() };
            preferences.put_first("table".to_owned(), first.iter().map(|one| name(one)).collect());
            let mut ranks: Vec<_> = [
                ("b", Place::Library),
                ("a", Place::Process),
                ("d", Place::CompiledIn),
                ("c", Place::CompiledIn),
            ]
            .map(|(plugin, place)| preferences.rank(asked, "table", &name(plugin), place))
            .into();
            ranks.sort();
            let names: Vec<_> = ranks.iter().map(|rank| rank.name.as_str()).collect();
            assert_eq!(names, wanted);
        };
        use Preference::{External, Internal};
        check(Internal, &[], "table", &["c", "d", "b", "a"]);
        check(External, &[], "table", &["b", "a", "c", "d"]);
        check(Internal, &["a", "gone", "d"], "table", &["a", "d", "c", "b"]);
        check(External, &["d"], "its-alias", &["d", "b", "a", "c"]);
    }
}
