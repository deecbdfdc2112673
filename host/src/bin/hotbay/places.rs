//! Where plugins are looked for, and how one of them is found by name or path.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hotbay::inspect::{self, Survey, SurveyedPlugin};
use hotbay::{Error, Host, HostBuilder, PluginName};

use crate::args::Options;
use crate::failure::Failure;
use crate::output::say;

/// Looked at in this order when no folder is named; the first that is there is taken.
const USUAL: [&str; 2] = ["target/plugins", "plugins"];

/// How many problems of a survey a message repeats.
const PROBLEMS_SHOWN_MAX: usize = 4;

/// Where to look: the folders that were named, or the usual one.
pub(crate) fn dirs(options: &Options) -> Vec<PathBuf> {
    if !options.dirs.is_empty() {
        return options.dirs.clone();
    }
    let usual = USUAL.iter().map(PathBuf::from).find(|dir| dir.is_dir());
    if usual.is_none() {
        say(&format!(
            "neither {} is here; name a folder by --dir, or build the example plugins by \
             `cargo xtask build-plugins`",
            told(&USUAL.map(PathBuf::from)).replace(", ", " nor ")
        ));
    }
    usual.into_iter().collect()
}

/// A builder that accepts what the options accept, and looks below `dirs`.
pub(crate) fn builder(options: &Options, dirs: &[PathBuf]) -> HostBuilder {
    let builder = Host::builder()
        .allow_unverified(options.allow_unverified)
        .allow_writable_by_others(options.allow_writable)
        .keep_staged(options.keep_staged);
    dirs.iter().fold(builder, |builder, dir| builder.plugin_dir(dir))
}

/// Folders as a sentence names them.
pub(crate) fn told(dirs: &[PathBuf]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|dir| format!("`{}`", dir.display())).collect();
    dirs.join(", ")
}

/// The folder of the plugin that is meant by a name, by a folder or by a manifest.
pub(crate) fn folder(plugin: &str, options: &Options) -> Result<PathBuf, Failure> {
    let path = Path::new(plugin);
    if path.file_name().is_some_and(|name| name == "plugin.json") {
        let folder = path.parent().unwrap_or(Path::new(""));
        let is_here = folder.as_os_str().is_empty();
        return Ok(if is_here { ".".into() } else { folder.to_owned() });
    }
    if PluginName::new(plugin).is_err() {
        return Ok(path.to_owned());
    }
    let dirs = dirs(options);
    let Survey { plugins: surveyed, errors: problems, .. } =
        inspect::survey(&builder(options, &dirs));
    let mut folders: Vec<_> = named(&surveyed, plugin).map(|one| &one.folder).collect();
    match (folders.pop(), folders.is_empty()) {
        (Some(folder), true) => Ok(folder.clone()),
        (Some(folder), false) => {
            folders.push(folder);
            let folders: Vec<_> = folders.into_iter().cloned().collect();
            let message = format!("there are several plugins `{plugin}`; name a folder");
            Err(Failure::new("duplicate", message).because(told(&folders)))
        }
        (None, _) if path.join("plugin.json").is_file() => Ok(path.to_owned()),
        (None, _) => Err(missing(plugin, &surveyed, &problems, &dirs)),
    }
}

/// The folders of the plugins with these names and of everything that they require.
pub(crate) fn with_required(
    names: &[String],
    surveyed: &[SurveyedPlugin],
    problems: &[Error],
    dirs: &[PathBuf],
) -> Result<Vec<PathBuf>, Failure> {
    let mut folders = Vec::new();
    for name in names {
        if named(surveyed, name).next().is_none() {
            return Err(missing(name, surveyed, problems, dirs));
        }
        for one in named(surveyed, name) {
            folders.push(one.folder.clone());
            folders.extend(required(one, surveyed));
        }
    }
    folders.sort();
    folders.dedup();
    Ok(folders)
}

/// The folders of all that a plugin requires, directly or not; without its own.
pub(crate) fn required(plugin: &SurveyedPlugin, surveyed: &[SurveyedPlugin]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut waiting = vec![plugin];
    while let Some(one) = waiting.pop() {
        let Some(manifest) = &one.manifest else {
            continue;
        };
        for name in manifest.requires().keys() {
            for next in named(surveyed, name.as_str()) {
                if next.folder != plugin.folder && folders.insert(next.folder.clone()) {
                    waiting.push(next);
                }
            }
        }
    }
    folders
}

/// The plugins of this name; a folder whose manifest cannot be read goes by its own name.
fn named<'a>(
    surveyed: &'a [SurveyedPlugin],
    name: &'a str,
) -> impl Iterator<Item = &'a SurveyedPlugin> {
    surveyed.iter().filter(move |one| match &one.manifest {
        Some(manifest) => manifest.name().as_str() == name,
        None => one.folder.file_name().is_some_and(|folder| folder == name),
    })
}

/// Returns the error for a plugin that was not found, with what kept folders from being read.
fn missing(
    name: &str,
    surveyed: &[SurveyedPlugin],
    problems: &[Error],
    dirs: &[PathBuf],
) -> Failure {
    let names = surveyed.iter().filter_map(|one| one.manifest.as_ref());
    let names: BTreeSet<_> = names.map(|manifest| manifest.name().as_str()).collect();
    let near = |known: &&&str| strsim::jaro_winkler(known, name);
    let nearest = names.iter().max_by(|a, b| near(a).total_cmp(&near(b)));
    let place = match dirs {
        [] => String::new(),
        dirs => format!(" in {}", told(dirs)),
    };
    let message = match nearest {
        Some(nearest) if near(&nearest) > 0.8 => {
            format!("there is no plugin `{name}`{place}; did you mean `{nearest}`?")
        }
        Some(_) => format!("there is no plugin `{name}`{place}; `hotbay list` shows what is there"),
        None => format!("there is no plugin `{name}`{place}, nor any other"),
    };
    let failure = Failure::new("not_found", message);
    if problems.is_empty() {
        return failure;
    }
    let mut reasons: Vec<_> =
        problems.iter().take(PROBLEMS_SHOWN_MAX).map(Error::full_message).collect();
    let more = problems.len() - reasons.len();
    if more > 0 {
        reasons.push(format!("{more} more problems; `hotbay list` shows all"));
    }
    failure.because(reasons.join("; "))
}
