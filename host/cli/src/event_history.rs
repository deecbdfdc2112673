//! Derives details of an event from the events before it: why a generation was retired, and that a
//! plugin recovered from a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use hotbay::{GenerationId, Host, HostEvent, PluginName};

/// The relevant state of all plugins, according to their events.
#[derive(Debug, Default)]
pub(crate) struct EventHistory {
    folders: BTreeMap<PluginName, PathBuf>,
    /// The generation that replaced another one, by plugin and replaced generation.
    replaced_by: BTreeMap<(PluginName, GenerationId), GenerationId>,
    /// The plugins whose last load or reload failed.
    failed: BTreeSet<String>,
}

impl EventHistory {
    /// Records `event`, and returns a detail to print after it.
    pub(crate) fn record(
        &mut self,
        event: &HostEvent,
        host: &Host,
        is_stopping: bool,
    ) -> Option<String> {
        match event {
            HostEvent::Refused { plugin, .. } => {
                self.failed.insert(plugin.clone());
                None
            }
            HostEvent::RolledBack { plugin, .. } => {
                self.failed.insert(plugin.to_string());
                None
            }
            HostEvent::Loaded { plugin, .. } => {
                self.record_folder(plugin, host);
                let recovered = self.failed.remove(plugin.as_str());
                recovered.then(|| "recovered from a failed load".to_owned())
            }
            HostEvent::Promoted { plugin, generation, from, .. } => {
                self.record_folder(plugin, host);
                if let Some(from) = from {
                    self.replaced_by.insert((plugin.clone(), *from), *generation);
                }
                let recovered = self.failed.remove(plugin.as_str());
                recovered.then(|| "recovered from a failed reload".to_owned())
            }
            HostEvent::Retired { plugin, generation } => {
                if let Some(next) = self.replaced_by.remove(&(plugin.clone(), *generation)) {
                    return Some(format!("replaced by generation {next}"));
                }
                if is_stopping {
                    return Some("the host is stopping".to_owned());
                }
                let folder = self.folders.get(plugin)?;
                let is_removed = !folder.join("plugin.json").exists();
                is_removed.then(|| "its plugin.json was removed".to_owned())
            }
            _ => None,
        }
    }

    fn record_folder(&mut self, plugin: &PluginName, host: &Host) {
        let found = host.list().into_iter().find(|one| one.name == *plugin);
        if let Some(folder) = found.and_then(|one| one.folder) {
            self.folders.insert(plugin.clone(), folder);
        }
    }
}
