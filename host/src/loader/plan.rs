//! Decides what to do about a build that may have changed, by the content of its folder. The decision
//! is pure; only [`Content`] reads files.

use std::path::Path;

use hotbay_manifest::Manifest;
use semver::VersionReq;

use super::candidate::Candidate;
use super::load::Build;
use super::schemas::schema_digests;
use super::survey::read_artifact;
use crate::artifact::digest::Artifact;
use crate::artifact::signature::{Extent, Signature};
use crate::artifact::trust::Rules;
use crate::error::Error;
use crate::id::PluginName;

/// A plugin that requires the one to be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Dependent {
    pub(crate) name: PluginName,
    pub(crate) required: VersionReq,
}

/// The decision about a possible build.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The build is the one that serves.
    Unchanged,
    /// Replace the current build.
    Swap,
    /// Keep the current build, because other plugins need it.
    Refuse(String),
    /// Keep the current build, because this key signed it and none the next one.
    SignatureLost { key: String },
}

/// Compares the current build with the next one. `sha256` is the digest of the next library, and
/// `signature` that of its folder.
pub(crate) fn plan(
    current: &Build,
    next: &Manifest,
    sha256: Option<[u8; 32]>,
    signature: &Signature,
    dependents: &[Dependent],
) -> Plan {
    if let (Signature::Valid(list), Signature::Missing) = (&current.signature, signature) {
        return Plan::SignatureLost { key: list.key().to_owned() };
    }
    let same = sha256.is_some()
        && current.sha256 == sha256
        && current.signature.sha256() == signature.sha256();
    // The digest of the library is compared separately.
    if same && current.manifest.without_seal() == next.without_seal() {
        return Plan::Unchanged;
    }
    let found = next.version();
    let mut refusals: Vec<_> = dependents
        .iter()
        .filter(|dependent| !dependent.required.matches(found))
        .map(|dependent| format!("`{}` requires {}", dependent.name, dependent.required))
        .collect();
    // A dependent that is being reloaded may state the same requirement twice.
    refusals.dedup();
    if refusals.is_empty() {
        return Plan::Swap;
    }
    Plan::Refuse(format!("the new build is {found}, and {}", refusals.join(" and ")))
}

/// The text of a manifest, and the digests of its schemas and library, or why one cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    manifest: String,
    schemas: Vec<Option<[u8; 32]>>,
    library: Option<Result<[u8; 32], String>>,
    signature: Option<Result<[u8; 32], String>>,
}

impl Content {
    /// Reads the current content of `folder`.
    pub(crate) fn of(folder: &Path, rules: &Rules) -> Self {
        let mut content = Self::default();
        let candidate = Candidate::read(folder, rules);
        content.set_manifest(&candidate, rules);
        let candidate = candidate.and_then(|it| it.verify_signature(rules, Extent::Contents));
        content.set_signature(&candidate);
        if let Ok(candidate) = candidate {
            content.set_artifact(read_artifact(&candidate, rules).as_ref().map(Option::as_ref));
        }
        content
    }

    /// Records a manifest and its schema files.
    pub(crate) fn set_manifest(&mut self, read: &Result<Candidate, Error>, rules: &Rules) {
        let schemas = |candidate: &Candidate| schema_digests(candidate, rules);
        self.schemas = read.as_ref().map(schemas).unwrap_or_default();
        self.manifest = match read {
            Ok(candidate) => candidate.text.clone(),
            Err(error) => error.full_message(),
        };
    }

    /// Records the signature of a candidate, or the error of its check.
    pub(crate) fn set_signature(&mut self, verified: &Result<Candidate, Error>) {
        self.signature = match verified {
            Ok(candidate) => candidate.signature.sha256().map(Ok),
            Err(error) => Some(Err(causes(error))),
        };
    }

    /// Records a library.
    pub(crate) fn set_artifact(&mut self, read: Result<Option<&Artifact>, &Error>) {
        self.library = match read {
            Ok(library) => library.map(|library| Ok(library.content())),
            // The cause alone: the error itself names the serving generation.
            Err(error) => Some(Err(causes(error))),
        };
    }
}

fn causes(error: &Error) -> String {
    let source = std::error::Error::source(error);
    source.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    fn manifest(version: &str) -> Manifest {
        Manifest::new("echo", version).expect("a manifest")
    }

    fn check(next: &Manifest, digest: u8, dependents: &[(&str, &str)], expected: Plan) {
        let current = Build {
            manifest: Arc::new(manifest("1.2.0")),
            sha256: Some([1; 32]),
            schemas: Vec::new(),
            settings: Arc::default(),
            offers: Vec::new(),
            signature: Signature::default(),
            notes: Vec::new(),
            confinement: None,
        };
        let dependent = |(name, required): &(&str, &str)| Dependent {
            name: PluginName::new(name).expect("a name"),
            required: VersionReq::parse(required).expect("a requirement"),
        };
        let dependents: Vec<_> = dependents.iter().map(dependent).collect();
        assert_eq!(
            plan(&current, next, Some([digest; 32]), &Signature::Missing, &dependents),
            expected
        );
    }

    #[test]
    fn unchanged_build_is_not_loaded() {
        check(&manifest("1.2.0"), 1, &[], Plan::Unchanged);
        let text = r#"{ "name": "echo", "version": "1.2.0", "api": "*", "length": 7 }"#;
        let sealed = Manifest::parse(text, Path::new("plugin.json")).expect("a manifest");
        assert_eq!(sealed.without_seal(), manifest("1.2.0"));
        check(&sealed, 1, &[], Plan::Unchanged);
    }

    #[test]
    fn changed_library_or_config_is_a_swap() {
        check(&manifest("1.2.0"), 2, &[], Plan::Swap);
        let config = manifest("1.2.0").with_config(serde_json::json!({ "mode": "upper" }));
        check(&config.expect("a config"), 1, &[], Plan::Swap);
    }

    #[test]
    fn version_that_dependents_reject_is_refused() {
        let message = "the new build is 2.0.0, and `report` requires ^1.0";
        let dependents = [("ledger", ">=1.0"), ("report", "^1.0"), ("report", "^1.0")];
        check(&manifest("2.0.0"), 2, &dependents, Plan::Refuse(message.to_owned()));
        check(&manifest("1.3.0"), 2, &dependents, Plan::Swap);
    }
}
