//! Loads libraries without a digest in a child process, to find those that crash. Loads nothing
//! into this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hotbay::inspect::SurveyedPlugin;
use serde_json::Value;

use crate::args::Options;
use crate::child_process::{self, ChildOutcome};
use crate::failure::{Failure, error_json, own_json, short};
use crate::output::{print_hint, print_message};
use crate::plugin_dirs::required;
use crate::survey_report;

/// The reason a plugin must not be loaded, as text and as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) short: String,
    pub(crate) json: Value,
}

/// The plugins that must not be loaded, by folder.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<PathBuf, Refusal>);

impl Refusals {
    pub(crate) fn of(&self, folder: &Path) -> Option<&Refusal> {
        self.0.get(folder)
    }

    fn refuse(&mut self, one: &SurveyedPlugin, refusal: Refusal) {
        self.0.insert(one.folder.clone(), refusal);
    }
}

/// Loads each library without a digest in a child process. Requirements come first, so that a
/// plugin is not blamed for the crash of a requirement.
pub(crate) fn run(surveyed: &[SurveyedPlugin], options: &Options) -> Result<Refusals, Failure> {
    let mut refusals = Refusals::default();
    let (mut pending, invalid): (Vec<_>, Vec<_>) = surveyed
        .iter()
        .filter(|one| survey_report::is_library(one) && survey_report::has_no_digest(one))
        .partition(|one| one.problem.is_none());
    for one in invalid {
        refusals.refuse(one, problem_of(one));
    }
    while !pending.is_empty() {
        let folders: Vec<_> = pending.iter().map(|one| &one.folder).collect();
        let is_next = |one: &SurveyedPlugin| {
            let required = required(one, surveyed);
            required.iter().all(|folder| !folders.contains(&folder))
        };
        let (next, later): (Vec<_>, Vec<_>) = pending.iter().partition(|one| is_next(one));
        for &one in &next {
            if let Some(refusal) = trial_load(one, surveyed, &refusals, options)? {
                refusals.refuse(one, refusal);
            }
        }
        // The others form a dependency cycle, which no host loads.
        if next.is_empty() {
            break;
        }
        pending = later;
    }
    Ok(refusals)
}

fn trial_load(
    one: &SurveyedPlugin,
    surveyed: &[SurveyedPlugin],
    refusals: &Refusals,
    options: &Options,
) -> Result<Option<Refusal>, Failure> {
    let required: Vec<_> = required(one, surveyed).into_iter().collect();
    if let Some(folder) = required.iter().find(|folder| refusals.of(folder).is_some()) {
        let required = surveyed.iter().find(|other| other.folder == **folder);
        let name = required.map(survey_report::name).unwrap_or_default();
        let reason = format!("requires plugin `{name}`, which cannot be started");
        return Ok(Some(refusal(one, "requires", &reason)));
    }
    if !options.json {
        let name = survey_report::name(one);
        print_message(&format!(
            "note: plugin `{name}` has no digest: loading it in a separate process first"
        ));
        print_hint(&survey_report::seal_hint(one));
    }
    let outcome = child_process::run("trial-load", &one.folder, &required, options)
        .map_err(|error| Failure::io("cannot start a separate process", &error))?;
    Ok(match outcome {
        ChildOutcome::Failed(reason) => Some(refusal(one, "start", &reason)),
        ChildOutcome::Completed(document) => {
            let short = document["problem"]["short"].as_str();
            short.map(|short| Refusal {
                short: short.to_owned(),
                json: document["problem"]["json"].clone(),
            })
        }
    })
}

fn problem_of(one: &SurveyedPlugin) -> Refusal {
    let problem = one.problem.as_ref();
    problem.map_or_else(|| refusal(one, "bug", "was refused without a reason"), Refusal::from)
}

impl From<&hotbay::Error> for Refusal {
    fn from(error: &hotbay::Error) -> Self {
        Self { short: short(error), json: error_json(error) }
    }
}

/// Creates a refusal with an error of the command.
fn refusal(one: &SurveyedPlugin, kind: &str, reason: &str) -> Refusal {
    let name = survey_report::name(one);
    let mut json = own_json(kind, &format!("plugin `{name}` {reason}"));
    json["plugin"] = name.into();
    Refusal { short: format!("it {reason}"), json }
}
