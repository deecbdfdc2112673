//! Checks the contracts that a plugin serves against its manifest and the application.

#[cfg(all(unix, feature = "process"))]
use std::collections::BTreeSet;

use hotbay_manifest::Manifest;
use hotbay_plugin::contract::ContractText;

use super::candidate::Candidate;
use crate::contracts::{CONTRACT_HINT, ContractRegistry};
#[cfg(all(unix, feature = "process"))]
use crate::contracts::{bind_mapped, mapped_hint};
use crate::error::{Error, ErrorKind, LoadStep};

/// Compares the contracts that a plugin serves with its manifest, and with those of the application.
pub(super) fn check_contracts<'t>(
    candidate: &Candidate,
    served: impl IntoIterator<Item = &'t ContractText> + Clone,
    contracts: Option<&ContractRegistry>,
    step: LoadStep,
) -> Result<(), Error> {
    let incompatible = || candidate.failed(step, ErrorKind::Incompatible);
    check_provided(&candidate.manifest, served.clone())
        .map_err(|reason| incompatible().caused_by(reason).with_hint("rebuild the plugin"))?;
    let Some(contracts) = contracts else { return Ok(()) };
    contracts.check(served).map_err(|(name, error)| {
        let found = format!("it serves an incompatible version of contract `{name}`");
        let cause = Error::new(ErrorKind::Incompatible, found).caused_by(error);
        incompatible().caused_by(cause).with_hint(CONTRACT_HINT)
    })
}

/// Compares the contracts that a manifest maps onto endpoints with those that the program describes,
/// and with those of the application.
#[cfg(all(unix, feature = "process"))]
pub(super) fn check_mapped<'t>(
    candidate: &Candidate,
    described: impl IntoIterator<Item = &'t ContractText> + Clone,
    endpoints: &BTreeSet<String>,
    contracts: Option<&ContractRegistry>,
) -> Result<(), Error> {
    let incompatible = || candidate.failed(LoadStep::Capabilities, ErrorKind::Incompatible);
    let provides = candidate.manifest.provides().iter();
    for provided in provides.filter(|provided| !provided.methods.is_empty()) {
        let name = &provided.contract;
        if described.clone().into_iter().any(|text| text.name == *name) {
            let message = format!(
                "its manifest has endpoints for the methods of contract `{name}`, which the program \
                 describes itself"
            );
            let hint = format!("remove `methods` from the entry `{name}` of `provides`");
            return Err(incompatible().caused_by(message).with_hint(hint));
        }
        // Those of older dialects declare none.
        let is_missing = |endpoint: &str| !endpoints.is_empty() && !endpoints.contains(endpoint);
        let mut mapped = provided.methods.values().map(|mapped| mapped.endpoint.as_str());
        if let Some(endpoint) = mapped.find(|endpoint| is_missing(endpoint)) {
            let message = format!(
                "its manifest maps a method of contract `{name}` onto the endpoint `{endpoint}`, which \
                 the program does not declare"
            );
            return Err(incompatible().caused_by(message).with_hint(mapped_hint(provided)));
        }
        let Some(contracts) = contracts else { continue };
        contracts.check_each(name, |caller| bind_mapped(caller, provided).map(drop)).map_err(
            |error| {
                let found =
                    format!("its manifest maps an incompatible version of contract `{name}`");
                let cause = Error::new(ErrorKind::Incompatible, found).caused_by(error);
                incompatible().caused_by(cause).with_hint(mapped_hint(provided))
            },
        )?;
    }
    Ok(())
}

/// Compares the versions in the manifest's `provides` with those of the plugin's contracts.
fn check_provided<'t>(
    manifest: &Manifest,
    served: impl IntoIterator<Item = &'t ContractText>,
) -> Result<(), String> {
    for ContractText { name, version, .. } in served {
        let stated = manifest.provides().iter().find(|provided| provided.contract == *name);
        let Some(stated) = stated.map(|provided| &provided.version) else { continue };
        if (stated.major, stated.minor) != (version.major.into(), version.minor.into()) {
            return Err(format!(
                "its manifest states version {stated} of contract `{name}` in `provides`, but the \
                 plugin serves {version}"
            ));
        }
    }
    Ok(())
}
