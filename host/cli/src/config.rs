//! `hotbay config`: checks and prints the configuration of the host; reads it for the other verbs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hotbay::confinement::{Confinement, RuleStatus};
use hotbay::inspect::{self, Survey, SurveyedPlugin};
use hotbay::manifest::SandboxRule;
use hotbay::{ConfigFile, ConfigValue, Error, Host, LoadStep};
use hotbay_manifest::nearest;
use serde_json::{Value, json};

use crate::Status;
use crate::args::{Args, Config, ConfigVerb, DEFAULT_CONFIG, Options, Verb};
use crate::config_notes::notes;
use crate::config_values::{Finding, has, is_set, place_of};
use crate::failure::{Failure, short};
use crate::output::Out;
use crate::plugin_dirs::{builder, dirs};
use crate::survey_report;

/// Printed instead of a value that may be a secret.
const HIDDEN: &str = "(hidden)";

/// Reads the configuration, if the verb uses it and there is one.
pub(crate) fn read(args: &mut Args) -> Result<(), Failure> {
    let is_used = match &args.verb {
        Verb::New(_)
        | Verb::Build(_)
        | Verb::Seal(_)
        | Verb::Sign(_)
        | Verb::Completions(_)
        | Verb::Man(_) => false,
        Verb::Config(config) => !matches!(config.verb, ConfigVerb::Schema),
        Verb::List
        | Verb::Doctor
        | Verb::Inspect(_)
        | Verb::Contract(_)
        | Verb::Check(_)
        | Verb::Call(_)
        | Verb::Pipe(_)
        | Verb::Run(_)
        | Verb::TrialLoad(_)
        | Verb::TrialAbi(_) => true,
    };
    let options = &mut args.options;
    let default = Path::new(DEFAULT_CONFIG);
    // A link that leads nowhere is a mistake.
    let has_default = !is_missing(default);
    let file = options.config.as_deref().or(has_default.then_some(default));
    if let Some(file) = file.filter(|_| is_used) {
        let read = match options.allow_writable {
            true => ConfigFile::read_writable_by_others(file),
            false => ConfigFile::read(file),
        };
        options.config_file = match read {
            // What the machine can do is known without the file. One that is named must be valid.
            Err(error) if matches!(args.verb, Verb::Doctor) && options.config.is_none() => {
                survey_report::print_warning(&Failure::from(error));
                None
            }
            read => Some(read?),
        };
    }
    Ok(())
}

/// Returns whether libraries without a digest are accepted.
pub(crate) fn accepts_unverified(options: &Options) -> bool {
    options.allow_unverified || is_set(options, "trust.allow_unverified")
}

/// Replaces the values of a plugin's config that are secrets.
pub(crate) fn without_secrets(plugin: &str, config: &Value, options: &Options) -> Value {
    let mut config = config.clone();
    let values = options.config_file.iter().flat_map(ConfigFile::values);
    for secret in values.filter(|value| value.value.is_none()) {
        let [first, name, field, path @ ..] = secret.keys.as_slice() else { continue };
        if (first.as_str(), name.as_str(), field.as_str()) != ("plugins", plugin, "config") {
            continue;
        }
        let found = path.iter().try_fold(&mut config, |value, key| value.get_mut(key.as_str()));
        if let Some(found) = found {
            *found = HIDDEN.into();
        }
    }
    config
}

fn is_missing(file: &Path) -> bool {
    file.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

pub(crate) fn config(args: &Config, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    if let ConfigVerb::Schema = args.verb {
        out.json(&ConfigFile::json_schema())?;
        return Ok(Status::Success);
    }
    let Some(file) = &options.config_file else {
        let message = format!("`{DEFAULT_CONFIG}` does not exist in the current folder");
        let hint = "name the file with `--config`, or create one; host/manifest/HOTBAY_TOML.md lists \
                    its fields";
        return Err(Failure::new("not_found", message).with_hint(hint));
    };
    match args.verb {
        ConfigVerb::Check => check(file, options, out),
        _ => show(file, options, out),
    }
}

fn check(file: &ConfigFile, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let dirs = dirs(options);
    let Survey { plugins, .. } = inspect::survey(&builder(options, &dirs));
    let problems = problems(file, options, &plugins);
    let notes = notes(file, options, &plugins);
    let (files, values) = (file.files().len(), file.values().count());
    if options.json {
        let json = |all: &[Finding]| all.iter().map(Finding::json).collect::<Vec<_>>();
        out.json(&json!({
            "files": file.files(), "values": values, "problems": json(&problems),
            "notes": json(&notes),
        }))?;
    } else {
        problems.iter().for_each(|problem| problem.print("error"));
        notes.iter().for_each(|note| note.print("note"));
        if problems.is_empty() {
            let plural =
                |count, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
            let (files, values) = (plural(files, "file"), plural(values, "value"));
            out.line(&format!("{}: valid ({values} in {files})", file.path().display()))?;
        }
    }
    Ok(if problems.is_empty() { Status::Success } else { Status::Failed })
}

fn problems(file: &ConfigFile, options: &Options, plugins: &[SurveyedPlugin]) -> Vec<Finding> {
    let mut problems = Vec::new();
    for dir in file.plugin_dirs().unwrap_or_default().iter().filter(|dir| !dir.is_dir()) {
        problems.push(Finding {
            place: place_of(file, "plugin_dirs"),
            message: format!("`plugin_dirs` has `{}`, which is not a folder", dir.display()),
            hint: None,
        });
    }
    problems.extend(problems_of_host(file, options));
    for value in
        file.values().filter(|value| value.keys.first().is_some_and(|it| it == "providers"))
    {
        let listed = value.value.iter().filter_map(Value::as_array).flatten();
        for name in listed.filter_map(Value::as_str) {
            if !plugins.iter().any(|one| survey_report::name(one) == name) {
                let path = &value.path;
                problems.push(Finding {
                    place: place_of(file, path),
                    message: format!("`{path}` names the plugin `{name}`, which was not found"),
                    hint: None,
                });
            }
        }
    }
    let names: BTreeMap<_, _> = plugins.iter().map(|one| (survey_report::name(one), one)).collect();
    let named = named(file);
    let unnamed = plugins.iter().filter(|one| !named.contains(&survey_report::name(one)));
    problems.extend(unnamed.filter_map(|one| problem_of_confinement(file, one)));
    for name in named {
        let path = format!("plugins.{name}");
        let problem = match names.get(&name) {
            Some(plugin) => enabled_problem(plugin).map(|error| {
                (format!("plugin `{name}`: {}", short(error)), error.hint().map(str::to_owned))
            }),
            None if is_disabled_instance(file, &path) => None,
            None => {
                let nearest = nearest(&name, names.keys().map(String::as_str));
                let hint = nearest.map(|nearest| format!("did you mean `{nearest}`?"));
                Some((format!("`{path}` names a plugin that was not found"), hint))
            }
        };
        if let Some((message, hint)) = problem {
            problems.push(Finding { place: place_of(file, &path), message, hint });
        }
    }
    problems
}

/// Returns the problems of settings that apply to all plugins.
fn problems_of_host(file: &ConfigFile, options: &Options) -> Vec<Finding> {
    let machine = inspect::machine(&builder(options, &[]));
    let runner = ["runner", "sandbox.isolate_libraries"].into_iter().find(|path| has(file, path));
    let runner = runner.zip(machine.runner.err()).map(|(path, error)| Finding {
        place: place_of(file, path),
        message: short(&error),
        hint: error.hint().map(str::to_owned),
    });
    [runner, problem_of_cgroup(file, &machine.confinement)].into_iter().flatten().collect()
}

fn problem_of_cgroup(file: &ConfigFile, confinement: &Confinement) -> Option<Finding> {
    let cgroup = file.values().find(|value| value.path == "sandbox.cgroup")?;
    let folder = cgroup.value?.as_str().map(PathBuf::from)?;
    let shown = folder.display();
    let message = match confinement.status(SandboxRule::Cpu)? {
        RuleStatus::Unavailable(_) if !folder.is_dir() => {
            format!("`sandbox.cgroup` is `{shown}`, which is not a folder")
        }
        RuleStatus::Unavailable(reason) => reason.clone(),
        _ => return None,
    };
    let hint =
        "name a folder of control groups (version 2) that is delegated to the user of the host";
    let place = place_of(file, "sandbox.cgroup");
    Some(Finding { place, message, hint: Some(hint.to_owned()) })
}

/// Returns whether an entry in `plugins` is an additional instance that is disabled, which a survey
/// does not contain.
fn is_disabled_instance(file: &ConfigFile, path: &str) -> bool {
    let enabled = format!("{path}.enabled");
    has(file, &format!("{path}.folder"))
        && file.values().any(|value| value.path == enabled && value.value == Some(false.into()))
}

/// Returns the problem of a plugin, unless it is disabled.
fn enabled_problem(plugin: &SurveyedPlugin) -> Option<&Error> {
    plugin.problem.as_ref().filter(|_| !plugin.is_disabled)
}

/// Returns the problem of a plugin that cannot be confined as the host requires.
fn problem_of_confinement(file: &ConfigFile, plugin: &SurveyedPlugin) -> Option<Finding> {
    let error = enabled_problem(plugin)?;
    (error.step() == Some(LoadStep::Confine)).then(|| Finding {
        place: place_of(file, "sandbox"),
        message: format!("plugin `{}`: {}", survey_report::name(plugin), short(error)),
        hint: error.hint().map(str::to_owned),
    })
}

/// Returns the plugins that the file has settings for.
fn named(file: &ConfigFile) -> BTreeSet<String> {
    let names = file.values().filter_map(|value| match value.keys.as_slice() {
        [first, name, ..] if first == "plugins" => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

fn show(file: &ConfigFile, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let manifests = manifest_values(file, options);
    if options.json {
        let own = file.values().chain(file.defaults()).map(|value| {
            let origin = value.origin.as_ref();
            json!({
                "path": value.path,
                "value": value.value,
                "is_secret": value.value.is_none(),
                "file": origin.map(|origin| &origin.file),
                "line": origin.map(|origin| origin.line),
                "column": origin.map(|origin| origin.column),
            })
        });
        let manifests = manifests.iter().map(|(path, value, file)| {
            json!({
                "path": path, "value": value, "is_secret": false, "file": file, "line": null,
                "column": null,
            })
        });
        out.json(&json!({ "values": own.chain(manifests).collect::<Vec<_>>() }))?;
        return Ok(Status::Success);
    }
    let mut lines: Vec<_> = file
        .values()
        .chain(file.defaults())
        .map(|value| {
            let shown = value.value.as_ref().map_or_else(|| HIDDEN.to_owned(), toml);
            let origin = match &value.origin {
                Some(origin) => format!("{}:{}", origin.file.display(), origin.line),
                None => "default".to_owned(),
            };
            (format!("{} = {shown}", value.path), origin)
        })
        .collect();
    lines.extend(
        manifests
            .into_iter()
            .map(|(path, value, file)| (format!("{path} = {}", toml(&value)), file)),
    );
    lines.sort();
    let width =
        lines.iter().map(|(value, _)| value.chars().count()).max().unwrap_or_default().min(60);
    for (value, origin) in lines {
        out.line(&format!("{value:<width$}  # {origin}"))?;
    }
    Ok(Status::Success)
}

/// Returns the values that come from manifests: those of the configs of plugins that the file has
/// settings for, with path, value, and the path of the manifest.
fn manifest_values(file: &ConfigFile, options: &Options) -> Vec<(String, Value, String)> {
    let dirs = dirs(options);
    let Survey { plugins, .. } = inspect::survey(&builder(options, &dirs));
    let own: BTreeSet<_> = file.values().map(|value| value.keys).collect();
    let replaced = |name: &str| is_set(options, &format!("plugins.{name}.replace_config"));
    let named = named(file);
    let mut found = Vec::new();
    for plugin in &plugins {
        let name = survey_report::name(plugin);
        if !named.contains(&name) || replaced(&name) {
            continue;
        }
        // Without the configuration, whose values may be secrets.
        let plain = inspect::plugin(&Host::builder(), &plugin.folder).surveyed.manifest;
        let Some(manifest) = plain else { continue };
        let origin = plugin.folder.join("plugin.json").display().to_string();
        let keys = ["plugins", &name, "config"].map(str::to_owned);
        add_leaves(keys.to_vec(), manifest.config(), &own, &mut |keys, value| {
            found.push((ConfigValue::path_of(&keys), value.clone(), origin.clone()));
        });
    }
    found
}

/// Adds the values at and below some keys that the file does not set.
fn add_leaves(
    keys: Vec<String>,
    value: &Value,
    own: &BTreeSet<Vec<String>>,
    add: &mut dyn FnMut(Vec<String>, &Value),
) {
    if (1..=keys.len()).any(|length| own.contains(&keys[..length])) {
        return;
    }
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let keys = keys.iter().chain([key]).cloned().collect();
                add_leaves(keys, value, own, add);
            }
        }
        _ => add(keys, value),
    }
}

/// Formats a value as TOML has it, in one line.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let entry = |(key, value): (&String, &Value)| format!("{key:?} = {}", toml(value));
            format!("{{ {} }}", object.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => {
            format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
