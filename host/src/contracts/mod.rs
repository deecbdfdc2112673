//! Contracts that plugins offer, and those that a host's application uses. Each of the latter gets an
//! id, by which generations remember how they serve it. Builds that serve an incompatible version are
//! rejected.

#[cfg(all(unix, feature = "process"))]
mod mapped;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use hotbay_plugin::contract::internal::Description;
use hotbay_plugin::contract::{ContractText, Incompatible, bind};
use semver::{Version, VersionReq};

use crate::id::PluginName;
use crate::sync::lock;

#[cfg(all(unix, feature = "process"))]
pub(crate) use mapped::{bind_mapped, mapped_hint};

/// The hint for a plugin that describes an incompatible version of a contract.
pub(crate) const CONTRACT_HINT: &str =
    "rebuild the plugin against the application's version of the contract";

/// A contract of the application, or of a plugin that calls.
#[derive(Debug)]
pub(crate) struct KnownContract {
    pub(crate) id: ContractId,
    /// Where generations keep the functions of its methods; `None` if it has too many, or the
    /// application uses very many contracts.
    pub(crate) functions: Option<FunctionRange>,
    pub(crate) text: ContractText,
    /// Whether the application uses it, so that incompatible builds are rejected.
    is_required: bool,
}

/// Position of a contract in the tables of generations: a chunk, and a place in it. Chunk `n` has
/// `FIRST_CHUNK << n` places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContractId {
    pub(crate) chunk: usize,
    pub(crate) at: usize,
}

/// Number of places of the first chunk.
pub(crate) const FIRST_CHUNK: usize = 8;
/// Number of chunks, for a million contracts.
pub(crate) const CHUNKS: usize = 18;

impl ContractId {
    fn new(index: usize) -> Self {
        let chunk = (index / FIRST_CHUNK + 1).ilog2() as usize;
        Self { chunk, at: index - FIRST_CHUNK * ((1 << chunk) - 1) }
    }
}

/// Position of a contract's methods in the tables of functions of generations: a table, and the place
/// of the first method in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FunctionRange {
    /// The index of the table plus one.
    table: NonZeroUsize,
    first: usize,
}

impl FunctionRange {
    /// Returns the index of the table.
    #[inline(always)]
    pub(crate) fn table(self) -> usize {
        // It is less: the compiler does not see that.
        (self.table.get() - 1) % TABLES
    }

    /// Returns the place of a method in the table.
    #[inline(always)]
    pub(crate) fn place(self, method: usize) -> usize {
        (self.first + method) % TABLE_LEN
    }
}

/// Number of functions in a table.
pub(crate) const TABLE_LEN: usize = 64;
/// Number of tables.
pub(crate) const TABLES: usize = 16;

/// Assigns places in the tables of functions.
#[derive(Debug, Default)]
struct NextFunction {
    table: usize,
    at: usize,
}

impl NextFunction {
    /// Returns places for so many methods, all in one table.
    fn take(&mut self, count: usize) -> Option<FunctionRange> {
        if count > TABLE_LEN {
            return None;
        }
        if self.at + count > TABLE_LEN {
            (self.table, self.at) = (self.table + 1, 0);
        }
        let first = self.at;
        self.at += count;
        let table = NonZeroUsize::new(self.table + 1).filter(|_| self.table < TABLES)?;
        Some(FunctionRange { table, first })
    }
}

/// A contract that a plugin provides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) contract: String,
    /// `None` if the plugin does not state it.
    pub(crate) version: Option<Version>,
    /// Other names of the contract.
    pub(crate) aliases: Vec<String>,
}

impl Offer {
    /// Returns the offer of a typed contract.
    pub(crate) fn typed(text: &ContractText) -> Self {
        let version = Version::new(text.version.major.into(), text.version.minor.into(), 0);
        Self { contract: text.name.clone(), version: Some(version), aliases: Vec::new() }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        [&self.contract].into_iter().chain(&self.aliases).map(String::as_str)
    }

    /// Returns whether the version is accepted. An unknown version is accepted only by `*`.
    pub(crate) fn matches(&self, accepted: &VersionReq) -> bool {
        // `*` matches no pre-release version, though a caller without a requirement accepts any.
        let matches = |version| accepted.matches(version);
        *accepted == VersionReq::STAR || self.version.as_ref().is_some_and(matches)
    }
}

/// Maximum number of known contracts beyond which those of plugins that call are refused. A contract
/// is never removed, since generations keep how they serve it by its id.
const MAX_OF_PLUGINS: usize = 4096;

/// Maximum number of contracts that one plugin adds, by its name. With all of its builds, since their
/// contracts stay known.
const MAX_OF_ONE_PLUGIN: usize = 256;

/// The reason a contract that a plugin calls is not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    OfThisPlugin,
    OfAllPlugins,
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfThisPlugin => {
                write!(
                    f,
                    "its builds have already called {MAX_OF_ONE_PLUGIN} versions of contracts"
                )
            }
            Self::OfAllPlugins => {
                write!(f, "plugins have already called {MAX_OF_PLUGINS} versions of contracts")
            }
        }
    }
}

/// The contracts that the application of a host uses, and those that plugins call.
#[derive(Default)]
pub(crate) struct ContractRegistry(Mutex<Known>);

#[derive(Default)]
struct Known {
    contracts: Vec<Arc<KnownContract>>,
    next_function: NextFunction,
    /// Number of contracts that each plugin has added.
    added: BTreeMap<PluginName, usize>,
}

impl ContractRegistry {
    /// Returns the contract with this description, which it adds if it is not known. `None` if it
    /// is invalid, or too many are known.
    pub(crate) fn register(&self, description: &Description) -> Option<Arc<KnownContract>> {
        let text = ContractText::parse(&description.text()).ok()?.pop()?;
        let mut known = lock(&self.0);
        known.find(&text, true).or_else(|| known.add(text, true))
    }

    /// Returns the contract with this text, by which a plugin calls others; fails if too many are
    /// known.
    pub(crate) fn of_plugin(
        &self,
        caller: &PluginName,
        text: ContractText,
    ) -> Result<Arc<KnownContract>, TooMany> {
        let mut known = lock(&self.0);
        if let Some(contract) = known.find(&text, false) {
            return Ok(contract);
        }
        let added = known.added.get(caller).copied().unwrap_or_default();
        if added >= MAX_OF_ONE_PLUGIN {
            return Err(TooMany::OfThisPlugin);
        }
        if known.contracts.len() >= MAX_OF_PLUGINS {
            return Err(TooMany::OfAllPlugins);
        }
        let contract = known.add(text, false).ok_or(TooMany::OfAllPlugins)?;
        known.added.insert(caller.clone(), added + 1);
        Ok(contract)
    }

    /// Checks that the plugin's contracts are compatible with those of the same name that the
    /// application uses. Returns the name of the first that is not.
    pub(crate) fn check<'t>(
        &self,
        served: impl IntoIterator<Item = &'t ContractText>,
    ) -> Result<(), (&'t str, Incompatible)> {
        for contract in served {
            self.check_each(&contract.name, |caller| bind(caller, contract).map(drop))
                .map_err(|error| (contract.name.as_str(), error))?;
        }
        Ok(())
    }

    /// Checks all versions of a contract that the application uses.
    pub(crate) fn check_each(
        &self,
        name: &str,
        check: impl Fn(&ContractText) -> Result<(), Incompatible>,
    ) -> Result<(), Incompatible> {
        let known = lock(&self.0);
        let required = known.contracts.iter().filter(|known| known.is_required);
        required.filter(|known| known.text.name == name).try_for_each(|known| check(&known.text))
    }
}

impl Known {
    fn find(&self, text: &ContractText, is_required: bool) -> Option<Arc<KnownContract>> {
        let mut known = self.contracts.iter();
        known.find(|known| known.is_required == is_required && known.text == *text).cloned()
    }

    /// Adds a contract; `None` if there is no id for it.
    fn add(&mut self, text: ContractText, is_required: bool) -> Option<Arc<KnownContract>> {
        let id = ContractId::new(self.contracts.len());
        if id.chunk >= CHUNKS {
            return None;
        }
        // Calls of plugins cross serialized.
        let functions =
            if is_required { self.next_function.take(text.methods.len()) } else { None };
        let contract = Arc::new(KnownContract { id, functions, text, is_required });
        self.contracts.push(Arc::clone(&contract));
        Some(contract)
    }
}

impl fmt::Debug for ContractRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = lock(&self.0);
        f.debug_list().entries(known.contracts.iter().map(|contract| &contract.text.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_fill_chunk_after_chunk() {
        let mut expected = (0..CHUNKS)
            .flat_map(|chunk| (0..FIRST_CHUNK << chunk).map(move |at| ContractId { chunk, at }));
        for index in 0..10_000 {
            assert_eq!(Some(ContractId::new(index)), expected.next());
        }
    }

    #[test]
    fn functions_of_a_contract_are_in_one_table() {
        let mut next = NextFunction::default();
        let at = |table: usize, first| {
            Some(FunctionRange { table: NonZeroUsize::MIN.saturating_add(table), first })
        };
        assert_eq!(next.take(60), at(0, 0));
        assert_eq!(next.take(TABLE_LEN + 1), None);
        assert_eq!(next.take(4), at(0, 60));
        assert_eq!(next.take(1), at(1, 0));
        assert_eq!(next.take(TABLE_LEN), at(2, 0));
        for table in 3..TABLES {
            assert_eq!(next.take(TABLE_LEN), at(table, 0));
        }
        assert_eq!(next.take(1), None);
    }
}
