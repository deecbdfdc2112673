//! Which of the plugins that name a contract serve its methods. Reports the others with their reasons.

use crate::contracts::KnownContract;
use crate::error::{Error, ErrorKind};
use crate::handle::PluginHandle;

/// Returns the plugins that serve a contract; fails with the reasons of all others if none does.
pub(super) fn serving(
    contract: &KnownContract,
    mut found: Vec<PluginHandle>,
) -> Result<Vec<PluginHandle>, Error> {
    let mut refused = Vec::new();
    found.retain(|plugin| match plugin.check_contract(contract) {
        Err(error) if matches!(error.kind(), ErrorKind::NotProvided | ErrorKind::Incompatible) => {
            refused.push(error);
            false
        }
        // Whether it can be called is found out when it is.
        _ => true,
    });
    if !found.is_empty() || refused.is_empty() {
        for error in refused {
            let error = error.full_message();
            tracing::warn!(contract = contract.text.name, error, "not used as a provider");
        }
        return Ok(found);
    }
    let first = refused.remove(0);
    Err(first.also_tried(&refused))
}
