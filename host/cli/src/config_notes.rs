//! The notes of `hotbay config check`: settings that are valid, but have less effect than it seems.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hotbay::inspect::{self, SurveyedPlugin};
use hotbay::manifest::SandboxRule;
use hotbay::{ConfigFile, ConfigValue};
use hotbay_manifest::{KeyTrust, nearest};
use serde_json::Value;

use crate::args::Options;
use crate::config_values::{Finding, has, is_below, is_set, place_of};
use crate::plugin_dirs::builder;
use crate::survey_report::{self, runs_in_own_process};

/// The fields of `sandbox` in the configuration that are not bounds.
const SETTINGS: [&str; 5] = ["required", "isolate_libraries", "state_dir", "cgroup", "namespaces"];

pub(crate) fn notes(
    file: &ConfigFile,
    options: &Options,
    surveyed: &[SurveyedPlugin],
) -> Vec<Finding> {
    let enabled: Vec<_> = surveyed.iter().filter(|one| !one.is_disabled).collect();
    let is_required = is_set(options, "sandbox.required");
    let mut notes = Vec::new();
    notes.extend(unused_signatures(file));
    notes.extend(expired_keys(file));
    notes.extend(unknown_signed_plugins(file, options, surveyed));
    notes.extend(missing_controllers(file, options));
    notes.extend(missing_paths(file));
    if is_required {
        notes.extend(exceptions(file, &enabled));
    }
    // Without a sandbox, a program is refused if one is required.
    match is_required {
        false => notes.extend(unconfined(file, &enabled)),
        true if !is_set(options, "sandbox.isolate_libraries") => {
            notes.extend(libraries_of_host(file, &enabled));
        }
        true => {}
    }
    notes.extend(enabled.iter().flat_map(|one| replaced_bounds(file, one)));
    notes.extend(enabled.iter().flat_map(|one| notes_of_plugin(file, one)));
    notes
}

/// The application may have keys.
fn unused_signatures(file: &ConfigFile) -> Option<Finding> {
    let is_required =
        |value: &ConfigValue| value.path == "signatures" && value.value == Some("required".into());
    let is_key = |value: &ConfigValue| value.keys.first().is_some_and(|first| first == "keys");
    let is_unused = file.values().any(|value| is_required(&value))
        && !file.values().any(|value| is_key(&value));
    is_unused.then(|| Finding {
        place: place_of(file, "signatures"),
        message: "`signatures` is `required`, but this file has no `[keys.NAME]`: a host refuses \
                  every plugin, unless the application adds a key"
            .to_owned(),
        hint: None,
    })
}

fn expired_keys(file: &ConfigFile) -> Vec<Finding> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let notes = values_of_keys(file, "expires").filter_map(|(name, value)| {
        let mut trust = KeyTrust::default();
        trust.set_expires(value.value.as_ref()?.as_str()?);
        let last_day = trust.expired(seconds)?;
        Some(Finding {
            place: place_of(file, &value.path),
            message: format!("key `{name}` has expired: its last day of trust was {last_day}"),
            hint: Some("sign its plugins with another key, or change `expires`".to_owned()),
        })
    });
    notes.collect()
}

/// Returns notes for names in the scope of a key that no plugin has.
fn unknown_signed_plugins(
    file: &ConfigFile,
    options: &Options,
    surveyed: &[SurveyedPlugin],
) -> Vec<Finding> {
    let names = surveyed.iter().map(|one| match &one.instance {
        // A signature has the name in the manifest.
        Some(_) => {
            survey_report::name(&inspect::plugin(&builder(options, &[]), &one.folder).surveyed)
        }
        None => survey_report::name(one),
    });
    let names: Vec<_> = names.collect();
    let mut notes = Vec::new();
    for (_, value) in values_of_keys(file, "plugins") {
        let listed = value.value.iter().filter_map(Value::as_array).flatten();
        let listed = listed.filter_map(Value::as_str).filter(|name| !name.ends_with('*'));
        for name in listed.filter(|name| !names.iter().any(|known| known == name)) {
            let is_instance = surveyed.iter().any(|one| survey_report::name(one) == name);
            let hint = match nearest(name, names.iter().map(String::as_str)) {
                _ if is_instance => {
                    Some("a key signs the name in plugin.json, which all instances have".to_owned())
                }
                nearest => nearest.map(|nearest| format!("did you mean `{nearest}`?")),
            };
            notes.push(Finding {
                place: place_of(file, &value.path),
                message: format!("`{}` names the plugin `{name}`, which was not found", value.path),
                hint,
            });
        }
    }
    notes
}

/// Returns notes for controllers of the folder of control groups that are missing, without which the
/// host itself checks a limit from time to time.
fn missing_controllers(file: &ConfigFile, options: &Options) -> Vec<Finding> {
    let cgroup = file.values().find(|value| value.path == "sandbox.cgroup");
    let folder = cgroup.and_then(|value| value.value?.as_str().map(PathBuf::from));
    // One that is not a folder is a mistake.
    let Some(folder) = folder.filter(|folder| folder.is_dir()) else { return Vec::new() };
    let confinement = inspect::machine(&builder(options, &[])).confinement;
    let controllers = [("memory", SandboxRule::MemoryBytes), ("pids", SandboxRule::Processes)];
    let notes = controllers.into_iter().filter_map(|(controller, rule)| {
        let report = confinement.incomplete().find(|report| report.rule == rule)?;
        let folder = folder.display();
        Some(Finding {
            place: place_of(file, "sandbox.cgroup"),
            message: format!("`{folder}` has no controller `{controller}`, so the limit {report}"),
            hint: Some(format!("delegate `{controller}` to the user of the host, too")),
        })
    });
    notes.collect()
}

/// Returns a field of all keys, each with the name of its key.
fn values_of_keys(file: &ConfigFile, field: &str) -> impl Iterator<Item = (String, ConfigValue)> {
    file.values().filter_map(move |value| match value.keys.as_slice() {
        [first, name, last] if first == "keys" && last == field => Some((name.clone(), value)),
        _ => None,
    })
}

/// Returns a note about the plugins without a sandbox, to which bounds do not apply.
fn unconfined(file: &ConfigFile, enabled: &[&SurveyedPlugin]) -> Option<Finding> {
    let bound = bounds(file).next()?;
    let is_unconfined = |one: &&&SurveyedPlugin| {
        let has_sandbox = one.manifest.as_ref().is_none_or(|it| it.sandbox().is_some());
        let own = format!("plugins.{}.sandbox", survey_report::name(one));
        let is_confined = file.values().any(|value| is_below(&value, &own));
        runs_in_own_process(one) && !has_sandbox && !is_confined
    };
    let names = names(enabled.iter().filter(is_unconfined))?;
    Some(Finding {
        place: place_of(file, &bound),
        message: format!("`[sandbox]` does not confine plugins without a sandbox: {names}"),
        hint: Some(
            "add `[plugins.NAME.sandbox]`, or refuse such plugins with `required = true` in \
             `[sandbox]`"
                .to_owned(),
        ),
    })
}

/// Returns a note about the libraries that are not confined, although a sandbox is required. One
/// with `isolation = "none"` in the file is an exception.
fn libraries_of_host(file: &ConfigFile, enabled: &[&SurveyedPlugin]) -> Option<Finding> {
    let is_unconfined = |one: &&&SurveyedPlugin| {
        let isolation = format!("plugins.{}.isolation", survey_report::name(one));
        survey_report::is_library(one) && !runs_in_own_process(one) && !has(file, &isolation)
    };
    let names = names(enabled.iter().filter(is_unconfined))?;
    Some(Finding {
        place: place_of(file, "sandbox.required"),
        message: format!(
            "`required` does not apply to libraries in the host's own process, which cannot be \
             confined: {names}"
        ),
        hint: Some("set `isolate_libraries = true` in `[sandbox]`".to_owned()),
    })
}

/// Returns a note if the plugin's own section replaces bounds of all plugins without setting them.
fn replaced_bounds(file: &ConfigFile, one: &SurveyedPlugin) -> Option<Finding> {
    let section = format!("plugins.{}.sandbox", survey_report::name(one));
    let own = format!("{section}.");
    file.values().find(|value| is_below(value, &section))?;
    let requests_more = one.manifest.as_ref().is_some_and(|it| it.sandbox().is_some());
    let is_replaced = |field: &str| {
        // Without a sandbox in the manifest, a list that is not set grants nothing.
        let is_list = field != "require" && !field.starts_with("limits.");
        let is_set = match field.starts_with("net") {
            true => file.values().any(|value| is_below(&value, &format!("{own}net"))),
            false => has(file, &format!("{own}{field}")),
        };
        !is_set && (requests_more || !is_list)
    };
    let fields = bounds(file).filter_map(|path| Some(path.strip_prefix("sandbox.")?.to_owned()));
    let fields: Vec<_> =
        fields.filter(|field| is_replaced(field)).map(|field| format!("`{field}`")).collect();
    if fields.is_empty() {
        return None;
    }
    let fields = fields.join(", ");
    Some(Finding {
        place: place_of(file, &section),
        message: format!(
            "`[{section}]` replaces the bounds in `[sandbox]`, but does not set {fields}"
        ),
        hint: Some("repeat there what must still apply".to_owned()),
    })
}

fn notes_of_plugin(file: &ConfigFile, one: &SurveyedPlugin) -> impl Iterator<Item = Finding> {
    let name = survey_report::name(one);
    one.notes.iter().map(move |note| Finding {
        place: place_of(file, &format!("plugins.{name}.limits.call_memory_bytes")),
        message: format!("plugin `{name}`: {note}"),
        hint: None,
    })
}

/// Returns a note for each path in bounds that does not exist.
fn missing_paths(file: &ConfigFile) -> Vec<Finding> {
    let mut notes = Vec::new();
    for value in file.values() {
        let field = match value.keys.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["sandbox", field] | ["plugins", _, "sandbox", field] => field.to_owned(),
            _ => continue,
        };
        if !["read", "write", "run"].contains(&field.as_str()) {
            continue;
        }
        let listed = value.value.iter().filter_map(Value::as_array).flatten();
        let listed = listed.filter_map(Value::as_str).filter(|path| path.starts_with('/'));
        notes.extend(listed.filter(|path| Path::new(path).try_exists().is_ok_and(|it| !it)).map(
            |path| Finding {
                place: place_of(file, &value.path),
                message: format!("`{}` lists `{path}`, which does not exist", value.path),
                hint: None,
            },
        ));
    }
    notes
}

/// Returns a note about the libraries for which the file makes an exception from `required`.
fn exceptions(file: &ConfigFile, enabled: &[&SurveyedPlugin]) -> Vec<Finding> {
    let libraries = enabled.iter().filter(|one| survey_report::is_library(one));
    let notes = libraries.filter_map(|one| {
        let path = format!("plugins.{}.isolation", survey_report::name(one));
        let is_none = |value: &ConfigValue| value.value == Some("none".into());
        file.values().find(|value| value.path == path).filter(is_none)?;
        Some(Finding {
            place: place_of(file, &path),
            message: format!(
                "the library `{}` is an exception from `required`: it runs in the host's own \
                 process, without a sandbox",
                survey_report::name(one)
            ),
            hint: None,
        })
    });
    notes.collect()
}

/// Returns the paths of the bounds of all sandboxes.
fn bounds(file: &ConfigFile) -> impl Iterator<Item = String> {
    let bounds = file.values().filter(|value| match value.keys.as_slice() {
        [first, field, ..] => first == "sandbox" && !SETTINGS.contains(&field.as_str()),
        _ => false,
    });
    bounds.map(|value| value.path)
}

/// Returns the names of the plugins; `None` without one.
fn names<'s>(plugins: impl Iterator<Item = &'s &'s SurveyedPlugin>) -> Option<String> {
    let names: Vec<_> = plugins.map(|one| format!("`{}`", survey_report::name(one))).collect();
    (!names.is_empty()).then(|| names.join(", "))
}
