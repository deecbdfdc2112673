//! Which libraries that nothing vouches for come through being loaded in a child process.
//! Loads nothing into this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hotbay::inspect::SurveyedPlugin;
use serde_json::Value;

use crate::args::Options;
use crate::child::{self, Ended};
use crate::failure::{Failure, own_json};
use crate::output::say;
use crate::places::required;
use crate::report;

/// Why a plugin must not be loaded here: in short, and as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) short: String,
    pub(crate) json: Value,
}

/// Those that must not be loaded here, by their folders.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<PathBuf, Refusal>);

impl Refusals {
    pub(crate) fn of(&self, folder: &Path) -> Option<&Refusal> {
        self.0.get(folder)
    }
}

/// Tries every unverified library in a child, those that are required first: whoever requires
/// a library that crashes is not blamed for it.
pub(crate) fn vet(surveyed: &[SurveyedPlugin], options: &Options) -> Result<Refusals, Failure> {
    let mut refusals = Refusals::default();
    let (mut waiting, hopeless): (Vec<_>, Vec<_>) = surveyed
        .iter()
        .filter(|one| report::is_unverified(one))
        .partition(|one| one.problem.is_none());
    for one in hopeless {
        refusals.refuse(one, problem_of(one));
    }
    while !waiting.is_empty() {
        let folders: Vec<_> = waiting.iter().map(|one| &one.folder).collect();
        let is_next = |one: &SurveyedPlugin| {
            let required = required(one, surveyed);
            required.iter().all(|folder| !folders.contains(&folder))
        };
        let (next, later): (Vec<_>, Vec<_>) = waiting.iter().partition(|one| is_next(one));
        for &one in &next {
            let refusal = try_one(one, surveyed, &refusals, options)?;
            if let Some(refusal) = refusal {
                refusals.refuse(one, refusal);
            }
        }
        // What is left is a circle, which no host starts.
        if next.is_empty() {
            break;
        }
        waiting = later;
    }
    Ok(refusals)
}

fn try_one(
    one: &SurveyedPlugin,
    surveyed: &[SurveyedPlugin],
    refusals: &Refusals,
    options: &Options,
) -> Result<Option<Refusal>, Failure> {
    let required: Vec<_> = required(one, surveyed).into_iter().collect();
    if let Some(folder) = required.iter().find(|folder| refusals.of(folder).is_some()) {
        let named = surveyed.iter().find(|other| other.folder == **folder);
        let name = named.map(report::name).unwrap_or_default();
        let why = format!("requires plugin `{name}`, which cannot be started");
        return Ok(Some(own(one, "requires", &why)));
    }
    if !options.json {
        say(&format!(
            "note: plugin `{}` has no digest (`hotbay seal {}` writes it): loading it in a process \
             of its own first",
            report::name(one),
            one.folder.display()
        ));
    }
    let ended = child::run("trial-load", &one.folder, &required, options)
        .map_err(|error| Failure::io("cannot start a process of its own", &error))?;
    Ok(match ended {
        Ended::Died(how) => Some(own(one, "start", &how)),
        Ended::Answered(answer) => {
            let short = answer["problem"]["short"].as_str();
            short.map(|short| Refusal {
                short: short.to_owned(),
                json: answer["problem"]["json"].clone(),
            })
        }
    })
}

impl Refusals {
    fn refuse(&mut self, one: &SurveyedPlugin, refusal: Refusal) {
        self.0.insert(one.folder.clone(), refusal);
    }
}

fn problem_of(one: &SurveyedPlugin) -> Refusal {
    one.problem.as_ref().map_or_else(|| own(one, "bug", "was refused for no reason"), Refusal::from)
}

impl From<&hotbay::Error> for Refusal {
    fn from(error: &hotbay::Error) -> Self {
        Self { short: crate::failure::short(error), json: crate::failure::error_json(error) }
    }
}

fn own(one: &SurveyedPlugin, kind: &str, why: &str) -> Refusal {
    let name = report::name(one);
    let mut json = own_json(kind, &format!("plugin `{name}` {why}"));
    json["plugin"] = name.into();
    Refusal { short: why.to_owned(), json }
}
