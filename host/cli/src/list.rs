//! `hotbay list`: the installed plugins, according to their manifests and stamps. Computes no
//! digests.

use std::path::PathBuf;

use hotbay::inspect::{self, Survey, SurveyedPlugin};
use serde_json::{Value, json};

use crate::args::Options;
use crate::config::accepts_unverified;
use crate::failure::{Failure, error_json, own_json, short};
use crate::inspect::signature_json;
use crate::output::{Out, Row, print_hint, print_message};
use crate::plugin_dirs::{NO_PLUGINS_HINT, builder, dirs, quoted};
use crate::{Status, survey_report};

/// Maximum number of folders without a manifest that are reported.
const MAX_FOLDER_NOTES: usize = 4;

pub(crate) fn list(options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let dirs = dirs(options);
    let Survey { plugins: mut surveyed, errors, without_manifest, .. } =
        inspect::survey(&builder(options, &dirs));
    surveyed.sort_by_cached_key(|one| (survey_report::name(one), one.folder.clone()));
    let problems: Vec<_> = surveyed.iter().map(|one| Problem::of(one, options)).collect();
    if options.json {
        let plugins = surveyed.iter().zip(&problems);
        let plugins: Vec<_> =
            plugins.map(|(one, problem)| as_json(one, problem.as_ref())).collect();
        let errors: Vec<_> = errors.iter().map(error_json).collect();
        out.json(&json!({ "plugins": plugins, "problems": errors }))?;
    } else if !surveyed.is_empty() {
        let rows = surveyed.iter().zip(&problems);
        let rows = rows.map(|(one, problem)| row(one, problem.as_ref())).collect();
        out.table(&["NAME", "VERSION", "KIND", "STATE", "PROBLEM"], rows)?;
    }
    // The table comes before the notes about it.
    out.flush()?;
    if surveyed.is_empty() && !dirs.is_empty() {
        print_message(&format!("note: no plugins found in {}", quoted(&dirs)));
        print_hint(NO_PLUGINS_HINT);
    }
    if !options.json {
        for (one, problem) in surveyed.iter().zip(&problems) {
            let hint = problem.as_ref().and_then(|problem| problem.json["hint"].as_str());
            survey_report::print_hint_for(one, hint);
        }
        print_folders_without_manifest(&without_manifest);
    }
    survey_report::print_errors(&errors, options);
    match errors.is_empty() && problems.iter().all(Option::is_none) {
        true => Ok(Status::Success),
        false => Ok(Status::Failed),
    }
}

fn print_folders_without_manifest(folders: &[PathBuf]) {
    for folder in folders.iter().take(MAX_FOLDER_NOTES) {
        let folder = folder.display();
        print_message(&format!("note: `{folder}` contains a shared library but no plugin.json"));
        print_hint("add a plugin.json, or install the plugin with `hotbay build`");
    }
    let more = folders.len().saturating_sub(MAX_FOLDER_NOTES);
    if more > 0 {
        let folders = if more == 1 { "folder contains" } else { "folders contain" };
        print_message(&format!("note: {more} more {folders} a shared library but no plugin.json"));
    }
}

/// The reason a plugin cannot be loaded.
struct Problem {
    text: String,
    json: Value,
}

impl Problem {
    fn of(one: &SurveyedPlugin, options: &Options) -> Option<Self> {
        if one.is_disabled {
            return None;
        }
        if let Some(error) = &one.problem {
            return Some(Self { text: short(error), json: error_json(error) });
        }
        if accepts_unverified(options) || !survey_report::has_no_digest(one) {
            return None;
        }
        let message = "plugin.json contains no digest";
        let mut json = own_json("integrity", message);
        json["step"] = "digest".into();
        json["plugin"] = survey_report::name(one).into();
        json["hint"] = survey_report::seal_hint(one).into();
        Some(Self { text: message.to_owned(), json })
    }
}

fn row(one: &SurveyedPlugin, problem: Option<&Problem>) -> Row {
    let manifest = one.manifest.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    Row {
        cells: vec![
            survey_report::name(one),
            or_dash(manifest.map(|manifest| manifest.version().to_string())),
            or_dash(manifest.map(|manifest| manifest.kind().to_string())),
            survey_report::state(one, problem.is_some()).to_owned(),
            problem.map_or("", |problem| &problem.text).to_owned(),
        ],
        state_column: 3,
        is_error: problem.is_some(),
    }
}

fn as_json(one: &SurveyedPlugin, problem: Option<&Problem>) -> Value {
    let manifest = one.manifest.as_ref();
    json!({
        "name": manifest.map(|manifest| manifest.name().as_str()),
        "version": manifest.map(|manifest| manifest.version().to_string()),
        "kind": manifest.map(|manifest| manifest.kind().as_str()),
        "description": manifest.and_then(|manifest| manifest.description()),
        "folder": one.folder.display().to_string(),
        "signature": signature_json(&one.signature),
        "has_digest": manifest.is_some_and(|manifest| manifest.sha256().is_some()),
        "api": one.built.as_ref().map(|built| built.api.to_string()),
        "state": survey_report::state(one, problem.is_some()),
        "problem": problem.map(|problem| &problem.json),
    })
}
