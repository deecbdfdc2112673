//! How a program keeps to the protocol, as `hotbay check` tells it: a line for each step.

use hotbay::Error;
use hotbay::inspect::{Conformance, ConformanceOutcome, SurveyedPlugin};
use hotbay::manifest::Kind;
use serde_json::{Value, json};

use crate::args::Options;
use crate::failure::Failure;
use crate::input::Input;
use crate::output::{Hue, Out};
use crate::places::builder;

/// The steps of one program.
pub(crate) struct Steps(Conformance);

impl Steps {
    /// Runs all steps with a program; none for what is no program, as far as is known.
    pub(crate) fn of(
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
            .map(|steps| Some(Self(steps)))
    }

    /// Which steps failed, in short.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed: Vec<_> = self.0.failed().map(|step| step.name).collect();
        match failed.as_slice() {
            [] => None,
            [one] => Some(format!("the step `{one}` of the protocol failed")),
            many => Some(format!("steps of the protocol failed: {}", many.join(", "))),
        }
    }

    pub(crate) fn tell(&self, name: &str, out: &mut Out) -> Result<(), Failure> {
        out.line("")?;
        out.line(&format!("{name}, held against the protocol:"))?;
        self.0.steps.iter().try_for_each(|step| {
            let (word, hue) = match step.outcome {
                ConformanceOutcome::Passed => ("ok     ", Hue::Green),
                ConformanceOutcome::Failed => ("FAILED ", Hue::Red),
                _ => ("skipped", Hue::Yellow),
            };
            // What a program wrote has lines of its own.
            let mut lines = step.message.lines();
            let first = lines.next().unwrap_or_default();
            out.marked_line("  ", (word, hue), &format!("  {:<17} {first}", step.name))?;
            lines.try_for_each(|line| out.line(&format!("{:29}{line}", "")))
        })
    }

    pub(crate) fn json(&self) -> Value {
        let steps = self.0.steps.iter().map(|step| {
            json!({
                "name": step.name,
                "outcome": step.outcome.as_str(),
                "message": step.message,
            })
        });
        steps.collect()
    }
}
