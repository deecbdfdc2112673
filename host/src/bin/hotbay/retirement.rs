//! Derives why a generation was retired from the events before it: the event has no reason.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hotbay::{GenerationId, Host, HostEvent, PluginName};

/// What the events say about the generations of all plugins.
#[derive(Debug, Default)]
pub(crate) struct Retirements {
    folders: BTreeMap<PluginName, PathBuf>,
    /// The generation that replaced another one, by plugin and replaced generation.
    replaced_by: BTreeMap<(PluginName, GenerationId), GenerationId>,
}

impl Retirements {
    /// Records `event`. Returns why its generation was retired, if it is such an event and the
    /// reason is known.
    pub(crate) fn reason(
        &mut self,
        event: &HostEvent,
        host: &Host,
        is_stopping: bool,
    ) -> Option<String> {
        match event {
            HostEvent::Loaded { plugin, .. } => self.record_folder(plugin, host),
            HostEvent::Promoted { plugin, generation, from, .. } => {
                self.record_folder(plugin, host);
                if let Some(from) = from {
                    self.replaced_by.insert((plugin.clone(), *from), *generation);
                }
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
                return is_removed.then(|| "its plugin.json was removed".to_owned());
            }
            _ => {}
        }
        None
    }

    fn record_folder(&mut self, plugin: &PluginName, host: &Host) {
        let found = host.list().into_iter().find(|one| one.name == *plugin);
        if let Some(folder) = found.and_then(|one| one.folder) {
            self.folders.insert(plugin.clone(), folder);
        }
    }
}
