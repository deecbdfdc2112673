//! The order in which providers of a contract are tried: first those that the application names,
//! then by where they run, then by name. Pure: plugins are looked up elsewhere.

use std::collections::BTreeMap;

use crate::id::PluginName;

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
}
