//! What a plugin offers: the contracts that it fulfils, under all their names. Values only.

use semver::{Version, VersionReq};

use crate::manifest::Manifest;

/// The contracts that one plugin fulfils.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offers(Vec<Offer>);

/// One contract that a plugin fulfils.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) contract: String,
    /// None where the plugin does not say.
    pub(crate) version: Option<Version>,
    /// What else the contract is called.
    pub(crate) aliases: Vec<String>,
}

impl Offers {
    /// What the manifest declares.
    pub(crate) fn declared(manifest: &Manifest) -> Self {
        let declared = manifest.provides().iter().map(|provided| Offer {
            contract: provided.contract.clone(),
            version: Some(provided.version.clone()),
            aliases: Vec::new(),
        });
        Self(declared.collect())
    }

    /// Adds what is declared elsewhere. What is there already goes first.
    pub(crate) fn and(mut self, more: impl IntoIterator<Item = Offer>) -> Self {
        self.0.extend(more);
        self
    }

    /// The offers of a contract, by its name or by another that it has.
    pub(crate) fn of<'a>(&'a self, contract: &'a str) -> impl Iterator<Item = &'a Offer> {
        self.0.iter().filter(move |offer| offer.names().any(|name| name == contract))
    }

    /// Every name of every contract.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(Offer::names)
    }
}

impl Offer {
    fn names(&self) -> impl Iterator<Item = &str> {
        [&self.contract].into_iter().chain(&self.aliases).map(String::as_str)
    }

    /// Whether this version is accepted. One that is not told is accepted only where all are.
    pub(crate) fn suits(&self, accepted: &VersionReq) -> bool {
        // `*` accepts no version before a release, though whoever says nothing would.
        let suits = |version| accepted.matches(version);
        *accepted == VersionReq::STAR || self.version.as_ref().is_some_and(suits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(contract: &str, version: Option<&str>, aliases: &[&str]) -> Offer {
        Offer {
            contract: contract.to_owned(),
            version: version.map(|version| version.parse().unwrap()),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        }
    }

    #[test]
    fn a_contract_is_found_by_all_its_names_and_in_all_its_versions() {
        let old = offer("table", Some("1.4.0"), &["sheet"]);
        let new = offer("table", Some("2.0.0-beta.1"), &[]);
        let text = offer("text", None, &[]);
        let offers = Offers(vec![old.clone()]).and([new.clone(), text.clone()]);
        let found = |contract| offers.of(contract).collect::<Vec<_>>();
        assert_eq!(found("table"), [&old, &new]);
        assert_eq!(found("sheet"), [&old]);
        assert_eq!(found("text"), [&text]);
        assert!(found("Table").is_empty());
        assert_eq!(offers.names().collect::<Vec<_>>(), ["table", "sheet", "table", "text"]);
    }

    #[test]
    fn what_says_no_version_suits_only_those_who_accept_all() {
        let check = |version, accepted: &str, suits| {
            let offer = offer("table", version, &[]);
            assert_eq!(offer.suits(&accepted.parse().unwrap()), suits, "{version:?} {accepted}");
        };
        check(Some("1.4.0"), "*", true);
        check(Some("1.4.0"), "^1.2", true);
        check(Some("1.4.0"), "^2", false);
        check(Some("2.0.0-beta.1"), "*", true);
        check(Some("2.0.0-beta.1"), "^1", false);
        check(None, "*", true);
        check(None, ">=0", false);
    }
}
