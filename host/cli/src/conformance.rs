//! The conformance report of a program, as `hotbay check` prints it: one line per protocol step.

use hotbay::Error;
use hotbay::inspect::{Conformance, ConformanceOutcome, SurveyedPlugin};
use hotbay::manifest::Kind;
use serde_json::{Value, json};

use crate::args::Options;
use crate::failure::Failure;
use crate::input::Input;
use crate::output::{Out, Style};
use crate::plugin_dirs::builder;

/// The protocol steps of one program.
pub(crate) struct ConformanceReport(Conformance);

impl ConformanceReport {
    /// Runs all steps with a program. Returns `None` for other kinds of plugins.
    pub(crate) fn run(
        one: &SurveyedPlugin,
        options: &Options,
        sample: Option<&Input>,
    ) -> Result<Option<Self>, Error> {
        let manifest = one.manifest.as_ref();
        if manifest.is_none_or(|manifest| manifest.kind() != Kind::Process) {
            return Ok(None);
        }
        let builder = builder(options, &[]).allow_unverified(true);
        let sample = sample.map(Input::request);
        hotbay::inspect::check_program(&builder, &one.folder, sample.as_ref())
            .map(|report| Some(Self(report)))
    }

    /// Returns the names of the failed steps as a message.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed: Vec<_> = self.0.failed().map(|step| step.name).collect();
        match failed.as_slice() {
            [] => None,
            [one] => Some(format!("protocol step `{one}` failed")),
            many => Some(format!("protocol steps failed: {}", many.join(", "))),
        }
    }

    pub(crate) fn print(&self, name: &str, out: &mut Out) -> Result<(), Failure> {
        out.line("")?;
        out.line(&format!("protocol conformance of {name}:"))?;
        self.0.steps.iter().try_for_each(|step| {
            let (word, style) = match step.outcome {
                ConformanceOutcome::Passed => ("ok     ", Style::Green),
                ConformanceOutcome::Failed => ("FAILED ", Style::Red),
                _ => ("skipped", Style::Yellow),
            };
            // A message that quotes the program's output has several lines.
            let mut lines = step.message.lines();
            let first = lines.next().unwrap_or_default();
            out.marked_line("  ", (word, style), &format!("  {:<17} {first}", step.name))?;
            let hint = step.hint.as_ref().map(|hint| format!("hint: {hint}"));
            let mut below = lines.chain(hint.as_deref());
            below.try_for_each(|line| out.line(&format!("{:29}{line}", "")))
        })
    }

    pub(crate) fn json(&self) -> Value {
        let steps = self.0.steps.iter().map(|step| {
            json!({
                "name": step.name,
                "outcome": step.outcome.as_str(),
                "message": step.message,
                "hint": step.hint,
            })
        });
        steps.collect()
    }
}
