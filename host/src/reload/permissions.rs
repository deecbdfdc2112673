//! What a plugin is granted of the permissions that its manifest asks for: the application is
//! asked once for each, at every load.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::candidate::Candidate;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::id::PluginName;
use crate::panic::fault_of;

/// The application's answer: whether a plugin is granted a permission.
#[derive(Clone)]
pub(crate) struct Grant(pub(crate) Arc<GrantFn>);

type GrantFn = dyn Fn(&PluginName, &str) -> bool + Send + Sync;

/// Most permissions that are told to be withheld, one by one.
const TOLD_MAX: usize = 8;

impl Candidate {
    /// Asks the application for each permission, if it wants to be asked; answers with what it
    /// withheld, in words.
    pub(super) fn evaluate(&mut self, grant: Option<&Grant>) -> Result<Vec<String>, Error> {
        let Some(Grant(grant)) = grant else { return Ok(Vec::new()) };
        let name = self.manifest.name();
        let mut granted = BTreeSet::new();
        for permission in self.manifest.permissions() {
            let answer = catch_unwind(AssertUnwindSafe(|| grant(name, permission)));
            let answer = answer.map_err(|payload| {
                let message =
                    format!("the application's `grant` panicked when asked for `{permission}`");
                let cause =
                    Error::new(ErrorKind::LayerPanicked, message).caused_by(fault_of(payload));
                self.failed(LoadStep::Manifest, ErrorKind::LayerPanicked).caused_by(cause)
            })?;
            if answer {
                granted.insert(permission.clone());
            }
        }
        self.granted = granted;
        Ok(notes(&self.withheld()))
    }

    /// What its manifest asks for and the application does not grant.
    pub(super) fn withheld(&self) -> BTreeSet<String> {
        self.manifest.permissions().difference(&self.granted).cloned().collect()
    }
}

fn notes(withheld: &BTreeSet<String>) -> Vec<String> {
    let told = withheld.iter().take(TOLD_MAX);
    let mut notes: Vec<_> = told
        .map(|permission| {
            format!("`permissions` asks for `{permission}`; this host does not grant it")
        })
        .collect();
    if withheld.len() > TOLD_MAX {
        let more = withheld.len() - TOLD_MAX;
        notes.push(format!("`permissions` asks for {more} more that this host does not grant"));
    }
    notes
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").finish_non_exhaustive()
    }
}
