//! `hotbay list`: what is there, as far as manifests and stamps tell. Computes no digests.

use hotbay::inspect::{self, Survey, SurveyedPlugin};
use serde_json::{Value, json};

use crate::args::Options;
use crate::failure::{Failure, error_json, own_json, short};
use crate::output::{Out, Row, say};
use crate::places::{builder, dirs, told};
use crate::{Verdict, report};

pub(crate) fn list(options: &Options, out: &mut Out) -> Result<Verdict, Failure> {
    let dirs = dirs(options);
    let Survey { plugins: mut surveyed, errors: problems, .. } =
        inspect::survey(&builder(options, &dirs));
    surveyed.sort_by_cached_key(|one| (report::name(one), one.folder.clone()));
    let wrong: Vec<_> = surveyed.iter().map(|one| wrong(one, options)).collect();
    if options.json {
        let plugins = surveyed.iter().zip(&wrong);
        let plugins: Vec<_> = plugins.map(|(one, wrong)| as_json(one, wrong)).collect();
        let problems: Vec<_> = problems.iter().map(error_json).collect();
        out.json(&json!({ "plugins": plugins, "problems": problems }))?;
    } else if !surveyed.is_empty() {
        let rows = surveyed.iter().zip(&wrong);
        let rows = rows.map(|(one, wrong)| row(one, wrong)).collect();
        out.table(&["NAME", "VERSION", "KIND", "STATE", "WHAT IS WRONG"], rows)?;
    }
    if surveyed.is_empty() && !dirs.is_empty() {
        say(&format!(
            "no plugins in {}; `cargo xtask build-plugins` builds the example plugins",
            told(&dirs)
        ));
    }
    report::tell(&problems, options);
    match problems.is_empty() && wrong.iter().all(Option::is_none) {
        true => Ok(Verdict::Well),
        false => Ok(Verdict::Wrong),
    }
}

/// Why a plugin would be refused: in short, and as JSON.
type Wrong = Option<(String, Value)>;

fn wrong(one: &SurveyedPlugin, options: &Options) -> Wrong {
    if let Some(error) = &one.problem {
        return Some((short(error), error_json(error)));
    }
    if options.allow_unverified || !report::is_unverified(one) {
        return None;
    }
    let message = format!("no digest; `hotbay seal {}` writes it", one.folder.display());
    let mut json = own_json("integrity", &message);
    json["step"] = "digest".into();
    json["plugin"] = report::name(one).into();
    Some((message, json))
}

fn row(one: &SurveyedPlugin, wrong: &Wrong) -> Row {
    let manifest = one.manifest.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    Row {
        cells: vec![
            report::name(one),
            or_dash(manifest.map(|manifest| manifest.version().to_string())),
            or_dash(manifest.map(|manifest| manifest.kind().to_string())),
            state(wrong).to_owned(),
            wrong.as_ref().map_or("", |(short, _)| short).to_owned(),
        ],
        state: 3,
        is_wrong: wrong.is_some(),
    }
}

fn as_json(one: &SurveyedPlugin, wrong: &Wrong) -> Value {
    let manifest = one.manifest.as_ref();
    json!({
        "name": manifest.map(|manifest| manifest.name().as_str()),
        "version": manifest.map(|manifest| manifest.version().to_string()),
        "kind": manifest.map(|manifest| manifest.kind().as_str()),
        "description": manifest.and_then(|manifest| manifest.description()),
        "folder": one.folder.display().to_string(),
        "has_digest": manifest.is_some_and(|manifest| manifest.sha256().is_some()),
        "api": one.built.as_ref().map(|built| built.api.to_string()),
        "state": state(wrong),
        "problem": wrong.as_ref().map(|(_, json)| json),
    })
}

fn state(wrong: &Wrong) -> &'static str {
    if wrong.is_some() { "refused" } else { "ready" }
}
