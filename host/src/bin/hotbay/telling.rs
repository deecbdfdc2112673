//! Tells events, each at once: a line for people, or a document in a line for programs.

use hotbay::{GenerationId, HostEvent, PluginName};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::{Hue, Out};

/// Columns of the longest word, `quarantined`.
const WORD_WIDTH: usize = 11;
/// Columns of a time, `14:03:22`, and the space after it.
const TIME_WIDTH: usize = 9;
/// Columns of most plugins with their versions; longer ones make it wider from there on.
const SUBJECT_WIDTH: usize = 16;

/// Tells events on stdout.
pub(crate) struct Teller {
    form: Form,
}

enum Form {
    Json,
    /// What stands in the column of plugins has been this wide.
    Lines {
        subject_width: usize,
    },
}

impl Teller {
    pub(crate) fn new(json: bool) -> Self {
        let form = if json { Form::Json } else { Form::Lines { subject_width: SUBJECT_WIDTH } };
        Self { form }
    }

    pub(crate) fn is_json(&self) -> bool {
        matches!(self.form, Form::Json)
    }

    pub(crate) fn tell(&mut self, event: &HostEvent, out: &mut Out) -> Result<(), Failure> {
        match &mut self.form {
            Form::Json => {
                let mut document = document(event);
                // RFC 3339, in UTC.
                document["timestamp"] = jiff::Timestamp::now().to_string().into();
                out.json_line(&document)?;
            }
            Form::Lines { subject_width } => {
                let told = Told::of(event);
                *subject_width = told.subject.chars().count().max(*subject_width);
                let now = jiff::Zoned::now().strftime("%H:%M:%S ").to_string();
                let after = told.after_word(*subject_width);
                let mut after = after.lines();
                out.marked_line(&now, (told.word, told.hue), after.next().unwrap_or_default())?;
                for line in after.chain(told.why.iter().flat_map(|why| why.lines())) {
                    out.line(&format!("{:TIME_WIDTH$}{:WORD_WIDTH$}  {line}", "", ""))?;
                }
            }
        }
        out.flush()
    }
}

/// An event for people.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    word: &'static str,
    hue: Hue,
    /// The plugin, and its version if the build is new.
    subject: String,
    detail: String,
    /// A line of its own.
    why: Option<String>,
}

impl Told {
    fn new(word: &'static str, hue: Hue, subject: impl ToString, detail: impl ToString) -> Self {
        let (subject, detail) = (subject.to_string(), detail.to_string());
        Self { word, hue, subject, detail, why: None }
    }

    fn of(event: &HostEvent) -> Self {
        use Hue::{Dim, Green, Red, Yellow};
        match event {
            HostEvent::Loaded { plugin, version, generation } => {
                let subject = format!("{plugin} {version}");
                Self::new("loaded", Green, subject, format!("generation {generation}"))
            }
            HostEvent::Refused { plugin, reason } => {
                Self::new("refused", Red, plugin, without_plugin(reason, plugin))
            }
            HostEvent::Promoted { plugin, version, generation, from } => {
                let detail = match from {
                    Some(from) => format!("generation {generation} (was {from})"),
                    None => format!("generation {generation} (the one before was stopped first)"),
                };
                Self::new("promoted", Green, format!("{plugin} {version}"), detail)
            }
            HostEvent::RolledBack { plugin, generation, step, reason } => {
                let at = step.map(|step| format!("at the step `{step}`; "));
                let now = match generation {
                    Some(generation) => format!("generation {generation} keeps serving"),
                    None => "nothing serves now".to_owned(),
                };
                let detail = at.unwrap_or_default() + &now;
                // The rest of the host's own level says what the first line says.
                let why = reason.split_once(" keeps serving: ").map(|(_, why)| why);
                let why = why.unwrap_or_else(|| without_plugin(reason, plugin.as_str()));
                let told = Self::new("rolled back", Red, plugin, detail);
                Self { why: Some(why.to_owned()), ..told }
            }
            HostEvent::Faulted { plugin, generation, fault, own_thread } => {
                let place = if *own_thread { ", on a thread of its own" } else { "" };
                let told =
                    Self::new("faulted", Red, plugin, format!("generation {generation}{place}"));
                Self { why: Some(fault.to_string()), ..told }
            }
            HostEvent::Quarantined { plugin, reason, probe_in_ms } => {
                let detail = match probe_in_ms {
                    Some(wait) => format!("{reason}; next probe in {wait} ms"),
                    None => reason.to_string(),
                };
                Self::new("quarantined", Yellow, plugin, detail)
            }
            HostEvent::Restored { plugin } => {
                Self::new("restored", Green, plugin, "is called again")
            }
            HostEvent::Retired { plugin, generation } => {
                Self::new("retired", Dim, plugin, format!("generation {generation}"))
            }
            HostEvent::Closed { plugin, generation, leaked_bytes } => {
                let leaked = match leaked_bytes {
                    Some(bytes @ 1..) => format!("; did not release {bytes} bytes"),
                    _ => String::new(),
                };
                Self::new("closed", Dim, plugin, format!("generation {generation}{leaked}"))
            }
            HostEvent::Kept { plugin, generation, reason } => {
                let detail = format!("generation {generation}: {reason}");
                Self::new("kept", Yellow, plugin, detail)
            }
            HostEvent::ShutdownFailed { plugin, generation, reason } => {
                let told = Self::new("shutdown", Red, plugin, "");
                Self { detail: format!("generation {generation} failed: {reason}"), ..told }
            }
            HostEvent::ChildExited { plugin, generation, pid, reason } => {
                let detail = format!("generation {generation}, process {pid}");
                let told = Self::new("exited", Red, plugin, detail);
                Self { why: Some(reason.clone()), ..told }
            }
            HostEvent::ListensBeyondLoopback { plugin, generation, pid, address } => {
                let detail = format!("generation {generation}, process {pid}");
                let told = Self::new("exposed", Yellow, plugin, detail);
                let why = format!("it listens at {address}, which other machines may reach");
                Self { why: Some(why), ..told }
            }
            HostEvent::Restarted { plugin, generation, pid, after_ms } => {
                let detail = format!("generation {generation}, process {pid}, after {after_ms} ms");
                Self::new("restarted", Green, plugin, detail)
            }
            HostEvent::ProviderChosen { contract, plugin, others } => {
                let others: Vec<_> = others.iter().map(|other| format!("`{other}`")).collect();
                let after = match others.is_empty() {
                    true => String::new(),
                    false => format!("; after it {}", others.join(", ")),
                };
                Self::new("chosen", Dim, plugin, format!("for `{contract}`{after}"))
            }
            HostEvent::Stopped => Self::new("stopped", Dim, "", ""),
            HostEvent::Missed { events } => {
                let detail = format!("{events} events; they came faster than they could be told");
                Self::new("missed", Yellow, "", detail)
            }
            // The library may know more than this command.
            other => Self::new("event", Dim, "", format!("{other:?}")),
        }
    }

    fn after_word(&self, subject_width: usize) -> String {
        let word_gap = WORD_WIDTH.saturating_sub(self.word.len());
        let subject = &self.subject;
        let line = match subject.is_empty() {
            true => format!("{:word_gap$}  {}", "", self.detail),
            false => format!("{:word_gap$}  {subject:subject_width$}  {}", "", self.detail),
        };
        line.trim_end().to_owned()
    }
}

/// A reason without the plugin's name, which stands before it.
fn without_plugin<'a>(reason: &'a str, plugin: &str) -> &'a str {
    reason.strip_prefix(&format!("plugin `{plugin}` ")).unwrap_or(reason)
}

/// An event for programs.
fn document(event: &HostEvent) -> Value {
    let number = |generation: &GenerationId| generation.get();
    match event {
        HostEvent::Loaded { plugin, version, generation } => json!({
            "event": "loaded", "plugin": plugin.as_str(), "version": version.to_string(),
            "generation": number(generation),
        }),
        HostEvent::Refused { plugin, reason } => json!({
            "event": "refused", "plugin": plugin, "reason": reason,
        }),
        HostEvent::Promoted { plugin, version, generation, from } => json!({
            "event": "promoted", "plugin": plugin.as_str(), "version": version.to_string(),
            "generation": number(generation), "from": from.as_ref().map(number),
        }),
        HostEvent::RolledBack { plugin, generation, step, reason } => json!({
            "event": "rolled_back", "plugin": plugin.as_str(),
            "generation": generation.as_ref().map(number),
            "step": step.map(|step| step.to_string()), "reason": reason,
        }),
        HostEvent::Faulted { plugin, generation, fault, own_thread } => json!({
            "event": "faulted", "plugin": plugin.as_str(), "generation": number(generation),
            "message": fault.message(), "location": fault.location(), "own_thread": own_thread,
        }),
        HostEvent::Quarantined { plugin, reason, probe_in_ms } => json!({
            "event": "quarantined", "plugin": plugin.as_str(), "reason": reason.to_string(),
            "probe_in_ms": probe_in_ms,
        }),
        HostEvent::Restored { plugin } => json!({
            "event": "restored", "plugin": plugin.as_str(),
        }),
        HostEvent::Retired { plugin, generation } => json!({
            "event": "retired", "plugin": plugin.as_str(), "generation": number(generation),
        }),
        HostEvent::Closed { plugin, generation, leaked_bytes } => json!({
            "event": "closed", "plugin": plugin.as_str(), "generation": number(generation),
            "leaked_bytes": leaked_bytes,
        }),
        HostEvent::Kept { plugin, generation, reason } => json!({
            "event": "kept", "plugin": plugin.as_str(), "generation": number(generation),
            "reason": reason,
        }),
        HostEvent::ShutdownFailed { plugin, generation, reason } => json!({
            "event": "shutdown_failed", "plugin": plugin.as_str(),
            "generation": number(generation), "reason": reason,
        }),
        HostEvent::ChildExited { plugin, generation, pid, reason } => json!({
            "event": "child_exited", "plugin": plugin.as_str(), "generation": number(generation),
            "pid": pid, "reason": reason,
        }),
        HostEvent::ListensBeyondLoopback { plugin, generation, pid, address } => json!({
            "event": "listens_beyond_loopback", "plugin": plugin.as_str(),
            "generation": number(generation), "pid": pid, "address": address.to_string(),
        }),
        HostEvent::Restarted { plugin, generation, pid, after_ms } => json!({
            "event": "restarted", "plugin": plugin.as_str(), "generation": number(generation),
            "pid": pid, "after_ms": after_ms,
        }),
        HostEvent::ProviderChosen { contract, plugin, others } => json!({
            "event": "provider_chosen", "contract": contract, "plugin": plugin.as_str(),
            "others": others.iter().map(PluginName::as_str).collect::<Vec<_>>(),
        }),
        HostEvent::Stopped => json!({ "event": "stopped" }),
        HostEvent::Missed { events } => json!({ "event": "missed", "events": events }),
        other => json!({ "event": "other", "text": format!("{other:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotbay::QuarantineReason;

    fn plugin() -> PluginName {
        PluginName::new("transform").expect("a name")
    }

    fn check(event: &HostEvent, line: &str, why: Option<&str>, json: Value) {
        let told = Told::of(event);
        let word = told.word;
        assert_eq!(format!("{word}{}", told.after_word(SUBJECT_WIDTH)), line);
        assert_eq!(told.why.as_deref(), why);
        assert_eq!(document(event), json);
    }

    #[test]
    fn what_has_no_generation_is_told_without_one() {
        check(
            &HostEvent::Quarantined {
                plugin: plugin(),
                reason: QuarantineReason::Faults { faults: 5 },
                probe_in_ms: Some(1000),
            },
            "quarantined  transform         5 faults; next probe in 1000 ms",
            None,
            json!({
                "event": "quarantined", "plugin": "transform", "reason": "5 faults",
                "probe_in_ms": 1000,
            }),
        );
        check(&HostEvent::Stopped, "stopped", None, json!({ "event": "stopped" }));
    }

    #[test]
    fn a_choice_is_told_with_those_that_come_after_it() {
        let check_chosen = |others: &[&str], line: &str| {
            let names = others.iter().map(|name| PluginName::new(name).expect("a name"));
            let contract = "table".to_owned();
            let names = names.collect();
            let event = HostEvent::ProviderChosen { contract, plugin: plugin(), others: names };
            check(
                &event,
                line,
                None,
                json!({
                    "event": "provider_chosen", "contract": "table", "plugin": "transform",
                    "others": others,
                }),
            );
        };
        check_chosen(&[], "chosen       transform         for `table`");
        check_chosen(&["a", "b"], "chosen       transform         for `table`; after it `a`, `b`");
    }

    #[test]
    fn a_reason_is_told_without_what_stands_before_it() {
        let reason = "plugin `transform` was not reloaded, at the step `digest`; generation 3 \
                      keeps serving: the file is half-written";
        let (step, reason) = (None, reason.to_owned());
        check(
            &HostEvent::RolledBack {
                plugin: plugin(),
                generation: None,
                step,
                reason: reason.clone(),
            },
            "rolled back  transform         nothing serves now",
            Some("the file is half-written"),
            json!({
                "event": "rolled_back", "plugin": "transform", "generation": null, "step": null,
                "reason": reason,
            }),
        );
        let reason = "plugin `transform` was not loaded: no".to_owned();
        check(
            &HostEvent::Refused { plugin: "transform".to_owned(), reason: reason.clone() },
            "refused      transform         was not loaded: no",
            None,
            json!({ "event": "refused", "plugin": "transform", "reason": reason }),
        );
    }
}
