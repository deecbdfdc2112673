//! Decides which of its requested permissions a plugin gets. The application is asked about each
//! one at every load.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::candidate::Candidate;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::id::PluginName;
use crate::panic::fault_of;

/// The application's decision whether a plugin gets a permission.
#[derive(Clone)]
pub(crate) struct PermissionPolicy(pub(crate) Arc<PermissionFn>);

type PermissionFn = dyn Fn(&PluginName, &str) -> bool + Send + Sync;

/// Maximum number of withheld permissions that are listed.
const MAX_NOTES: usize = 8;

impl Candidate {
    /// Evaluates the permission policy for each permission, if the application has one; returns
    /// notes about withheld ones.
    pub(super) fn evaluate(
        &mut self,
        policy: Option<&PermissionPolicy>,
    ) -> Result<Vec<String>, Error> {
        let Some(PermissionPolicy(is_granted)) = policy else { return Ok(Vec::new()) };
        let name = self.manifest.name();
        let mut granted = BTreeSet::new();
        for permission in self.manifest.permissions() {
            let is_granted = catch_unwind(AssertUnwindSafe(|| is_granted(name, permission)));
            let is_granted = is_granted.map_err(|payload| {
                let message =
                    format!("the application's permission policy panicked for `{permission}`");
                let cause =
                    Error::new(ErrorKind::LayerPanicked, message).caused_by(fault_of(payload));
                self.failed(LoadStep::Manifest, ErrorKind::LayerPanicked).caused_by(cause)
            })?;
            if is_granted {
                granted.insert(permission.clone());
            }
        }
        self.granted = granted;
        Ok(notes(&self.withheld()))
    }

    /// Returns the permissions that its manifest requests and the application withholds.
    pub(super) fn withheld(&self) -> BTreeSet<String> {
        self.manifest.permissions().difference(&self.granted).cloned().collect()
    }
}

fn notes(withheld: &BTreeSet<String>) -> Vec<String> {
    let listed = withheld.iter().take(MAX_NOTES);
    let mut notes: Vec<_> = listed
        .map(|permission| {
            format!("`permissions` requests `{permission}`, which this host does not grant")
        })
        .collect();
    if withheld.len() > MAX_NOTES {
        let more = withheld.len() - MAX_NOTES;
        notes.push(format!("`permissions` requests {more} more that this host does not grant"));
    }
    notes
}

impl fmt::Debug for PermissionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PermissionPolicy").finish_non_exhaustive()
    }
}
