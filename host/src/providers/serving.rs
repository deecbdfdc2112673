//! Which of the plugins that name a contract serve it: the only place where this is decided, for typed
//! providers and for plugins that call. Reports the others with their reasons.

use crate::error::{Error, is_not_served};
use crate::handle::PluginHandle;

/// The reasons for which plugins do not serve a contract.
#[derive(Default)]
struct Refusals(Vec<Error>);

impl Refusals {
    /// Returns whether a plugin serves the contract, by the result of its check.
    fn is_serving(&mut self, checked: Result<(), Error>) -> bool {
        match checked {
            Err(error) if is_not_served(&error) => {
                self.0.push(error);
                false
            }
            // Whether it can be called now shows in the call.
            _ => true,
        }
    }

    /// Returns the error of a contract that no plugin serves; `None` if no plugin was checked.
    fn into_error(mut self) -> Option<Error> {
        if self.0.is_empty() {
            return None;
        }
        let first = self.0.remove(0);
        Some(first.also_tried(&self.0))
    }
}

/// Returns the plugins that `check` does not refuse; fails with the reasons of all others if it refuses
/// each.
pub(super) fn serving(
    contract: &str,
    mut found: Vec<PluginHandle>,
    check: impl Fn(&PluginHandle) -> Result<(), Error>,
) -> Result<Vec<PluginHandle>, Error> {
    let mut refusals = Refusals::default();
    found.retain(|plugin| refusals.is_serving(check(plugin)));
    if found.is_empty() {
        return refusals.into_error().map_or(Ok(found), Err);
    }
    for error in refusals.0 {
        let error = error.full_message();
        tracing::warn!(contract, error, "not used as a provider");
    }
    Ok(found)
}

/// Returns the first plugin that `check` does not refuse, and `None` if there is no plugin; fails with
/// the reasons of all if it refuses each.
pub(super) fn first_serving<'p>(
    mut plugins: impl Iterator<Item = &'p PluginHandle>,
    check: impl Fn(&PluginHandle) -> Result<(), Error>,
) -> Result<Option<PluginHandle>, Error> {
    let mut refusals = Refusals::default();
    match plugins.find(|plugin| refusals.is_serving(check(plugin))) {
        Some(plugin) => Ok(Some(plugin.clone())),
        None => refusals.into_error().map_or(Ok(None), Err),
    }
}
