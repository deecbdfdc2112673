//! The contracts that a plugin provides, under all their names. Values only.

use hotbay_manifest::Manifest;

use crate::contracts::Offer;

/// The contracts that one plugin provides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offers(Vec<Offer>);

impl Offers {
    /// Returns the offers that a manifest declares.
    pub(crate) fn declared(manifest: &Manifest) -> Self {
        let declared = manifest.provides().iter().map(|provided| Offer {
            contract: provided.contract.clone(),
            version: Some(provided.version.clone()),
            aliases: Vec::new(),
        });
        Self(declared.collect())
    }

    /// Adds offers that are declared elsewhere, after the existing ones.
    pub(crate) fn and(mut self, more: impl IntoIterator<Item = Offer>) -> Self {
        self.0.extend(more);
        self
    }

    /// Returns the offers of a contract, by any of its names.
    pub(crate) fn of<'a>(&'a self, contract: &'a str) -> impl Iterator<Item = &'a Offer> {
        self.0.iter().filter(move |offer| offer.names().any(|name| name == contract))
    }

    /// Returns every name of every contract.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(Offer::names)
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
    fn contract_is_found_by_all_names_and_in_all_versions() {
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
    fn offer_without_version_matches_only_star() {
        let check = |version, accepted: &str, matches| {
            let offer = offer("table", version, &[]);
            assert_eq!(
                offer.matches(&accepted.parse().unwrap()),
                matches,
                "{version:?} {accepted}"
            );
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
