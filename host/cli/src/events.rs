//! Prints events: a line for people, or a JSON document on a line for programs. Derives details of
//! an event from those before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hotbay::{GenerationId, Host, HostEvent, PluginName};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Out, Style};

/// Columns of the names of most events, such as `quarantined`.
const NAME_WIDTH: usize = 11;
/// Columns of a time, such as `14:03:22`, and the space after it.
const TIME_WIDTH: usize = 9;

/// Older files did not cause a reload.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Prints events to stdout.
pub(crate) struct EventPrinter {
    is_json: bool,
}

impl EventPrinter {
    pub(crate) fn new(is_json: bool) -> Self {
        Self { is_json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Prints an event. `detail` follows its first line and is not part of the JSON document.
    pub(crate) fn print(
        &self,
        event: &HostEvent,
        detail: Option<&str>,
        out: &mut Out,
    ) -> Result<(), Failure> {
        if self.is_json {
            let mut document = document(event);
            // RFC 3339, in UTC.
            document["timestamp"] = jiff::Timestamp::now().to_string().into();
            out.json_line(&document)?;
        } else {
            let now = jiff::Zoned::now().strftime("%H:%M:%S ").to_string();
            let (name, mut first, more) = columns(event);
            if let Some(detail) = detail {
                first = format!("{first}; {detail}");
            }
            out.marked_line(&now, (&name, style(event)), &first)?;
            for line in more {
                out.line(&format!("{:TIME_WIDTH$}{:NAME_WIDTH$}  {line}", "", ""))?;
            }
        }
        out.flush()
    }
}

/// Returns the name of the event, what follows on its line, and further lines.
fn columns(event: &HostEvent) -> (String, String, Vec<String>) {
    let name = event.name().replace('_', " ");
    let text = event.to_string();
    let rest = text.strip_prefix(&name).unwrap_or(&text);
    // An event about no plugin.
    let mut lines = rest.strip_prefix(':').unwrap_or(rest).lines();
    let first = lines.next().unwrap_or_default();
    let gap = NAME_WIDTH.saturating_sub(name.len()) + 1;
    let first = if first.is_empty() { String::new() } else { format!("{:gap$}{first}", "") };
    (name, first, lines.map(str::to_owned).collect())
}

fn style(event: &HostEvent) -> Style {
    match event.name() {
        "config_changed" | "loaded" | "promoted" | "restored" | "restarted" => Style::Green,
        "config_rejected" | "refused" | "rolled_back" | "faulted" | "child_exited"
        | "shutdown_failed" => Style::Red,
        "quarantined" | "kept" | "listens_beyond_loopback" | "missed" => Style::Yellow,
        _ => Style::Dim,
    }
}

fn document(event: &HostEvent) -> Value {
    // Serialization fails only for maps with keys that are not strings.
    serde_json::to_value(event).unwrap_or_else(|_| json!({ "event": event.name() }))
}

/// The relevant state of all plugins, according to their events.
#[derive(Debug, Default)]
pub(crate) struct EventHistory {
    /// Whether reloads are caused by changed files.
    is_watch: bool,
    folders: BTreeMap<PluginName, PathBuf>,
    /// When the newest file of each plugin was written before its last load or reload.
    written: BTreeMap<PluginName, SystemTime>,
    /// The generation that replaced another one, by plugin and replaced generation.
    replaced_by: BTreeMap<(PluginName, GenerationId), GenerationId>,
    /// The plugins whose last load or reload failed.
    failed: BTreeSet<String>,
}

impl EventHistory {
    pub(crate) fn new(is_watch: bool) -> Self {
        Self { is_watch, ..Self::default() }
    }

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
                let before = self.written.get(plugin).copied();
                self.record_folder(plugin, host);
                if let Some(from) = from {
                    self.replaced_by.insert((plugin.clone(), *from), *generation);
                }
                let recovered = self.failed.remove(plugin.as_str());
                let recovered = recovered.then(|| "recovered from a failed reload".to_owned());
                // A changed configuration reloads a plugin with the files that it had before.
                let written = self.written.get(plugin).filter(|it| Some(**it) != before);
                let age = written.filter(|_| self.is_watch).and_then(|it| age(*it));
                let swapped =
                    age.map(|age| format!("{} ms after its files were written", age.as_millis()));
                let details: Vec<_> = recovered.into_iter().chain(swapped).collect();
                (!details.is_empty()).then(|| details.join("; "))
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
            if let Some(written) = written(&folder) {
                self.written.insert(plugin.clone(), written);
            }
            self.folders.insert(plugin.clone(), folder);
        }
    }
}

/// Returns when the newest file in `folder` was written.
fn written(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.metadata().ok());
    let files = entries.filter(|metadata| metadata.is_file());
    files.filter_map(|metadata| metadata.modified().ok()).max()
}

/// Returns the time since files were written, unless it is so long that they did not cause the reload
/// that ended now.
fn age(written: SystemTime) -> Option<Duration> {
    written.elapsed().ok().filter(|age| *age <= MAX_AGE)
}

#[cfg(test)]
mod tests {
    use hotbay::{PluginName, QuarantineReason};

    use super::*;

    fn plugin() -> PluginName {
        PluginName::new("transform").expect("a valid name")
    }

    fn check(event: &HostEvent, line: &str, more: &[&str], json: Value) {
        let (name, first, further) = columns(event);
        assert_eq!(format!("{name}{first}"), line);
        assert_eq!(further, more);
        assert_eq!(document(event), json);
    }

    #[test]
    fn quarantine_prints_reason_and_next_probe() {
        check(
            &HostEvent::Quarantined {
                plugin: plugin(),
                reason: QuarantineReason::Faults { faults: 5 },
                probe_in: Some(Duration::from_secs(1)),
            },
            "quarantined  transform: 5 faults; next probe in 1000 ms",
            &[],
            json!({
                "event": "quarantined", "plugin": "transform", "reason": "5 faults",
                "probe_in_ms": 1000,
            }),
        );
        check(&HostEvent::Stopped, "stopped", &[], json!({ "event": "stopped" }));
    }

    #[test]
    fn chosen_provider_prints_those_after_it() {
        let names = ["a", "b"].map(|name| PluginName::new(name).expect("a valid name"));
        let event = HostEvent::ProviderChosen {
            contract: "table".to_owned(),
            plugin: plugin(),
            others: names.to_vec(),
        };
        check(
            &event,
            "provider chosen  transform: called first for contract `table`, then `a`, `b`",
            &[],
            json!({
                "event": "provider_chosen", "contract": "table", "plugin": "transform",
                "others": ["a", "b"],
            }),
        );
    }

    #[test]
    fn failed_reload_prints_cause_and_hint_on_separate_lines() {
        let reason = "plugin `transform` failed to reload at step `digest` (generation 3 \
                      keeps serving): the file is incomplete"
            .to_owned();
        check(
            &HostEvent::RolledBack {
                plugin: plugin(),
                generation: None,
                step: None,
                reason: reason.clone(),
                hint: Some("copy it again".to_owned()),
            },
            "rolled back  transform: no generation is serving",
            &["the file is incomplete", "hint: copy it again"],
            json!({
                "event": "rolled_back", "plugin": "transform", "generation": null, "step": null,
                "reason": reason, "hint": "copy it again",
            }),
        );
        let reason = "plugin `transform` was not loaded: no".to_owned();
        check(
            &HostEvent::Refused {
                plugin: "transform".to_owned(),
                reason: reason.clone(),
                hint: None,
            },
            "refused      transform: was not loaded: no",
            &[],
            json!({
                "event": "refused", "plugin": "transform", "reason": reason, "hint": null,
            }),
        );
    }
}
