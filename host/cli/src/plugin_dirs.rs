//! Selects the plugin directories, and finds plugins in them by name or path.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hotbay::confinement::ConfinementPolicy;
use hotbay::inspect::{self, Survey, SurveyedPlugin};
use hotbay::{ConfigFile, Discovered, Error, Host, HostBuilder, LoadOptions, PluginName};
use hotbay_manifest::nearest;

use crate::args::{DEFAULT_CONFIG, Options};
use crate::failure::Failure;
use crate::output::{print_hint, print_message};

/// The default folders; the first one that exists is searched.
const DEFAULT_DIRS: [&str; 2] = ["target/plugins", "plugins"];

/// Maximum number of survey errors in one message.
const MAX_REASONS: usize = 4;

/// The hint if no plugin was found.
pub(crate) const NO_PLUGINS_HINT: &str =
    "build a plugin with `hotbay build`, or pass the folder that contains plugins with `--dir`";

/// Returns the folders of `--dir` or the configuration, or the default one. If it does not exist,
/// prints a note.
pub(crate) fn dirs(options: &Options) -> Vec<PathBuf> {
    selected_dirs(options).unwrap_or_else(|| {
        let [first, second] = DEFAULT_DIRS;
        print_message(&format!("note: neither `{first}` nor `{second}` exists"));
        print_hint(NO_PLUGINS_HINT);
        Vec::new()
    })
}

/// Returns the same folders; `None` without one.
fn selected_dirs(options: &Options) -> Option<Vec<PathBuf>> {
    if !options.dirs.is_empty() {
        return Some(options.dirs.clone());
    }
    if let Some(dirs) = options.config_file.as_ref().and_then(ConfigFile::plugin_dirs) {
        return Some(dirs.to_vec());
    }
    let default = DEFAULT_DIRS.iter().map(PathBuf::from).find(|dir| dir.is_dir());
    default.map(|default| vec![default])
}

/// Creates a builder for hosts that follow `options` and search `dirs`.
pub(crate) fn builder(options: &Options, dirs: &[PathBuf]) -> HostBuilder {
    // What the next run reads: a plugin must not write it, even if it does not exist yet.
    let files = [Path::new(DEFAULT_CONFIG)].into_iter().chain(options.config.as_deref());
    // The next command may search other folders than this one.
    let of_file = options.config_file.as_ref().and_then(ConfigFile::plugin_dirs);
    let defaults = DEFAULT_DIRS.iter().map(Path::new).filter(|_| of_file.is_none());
    let selected = options.dirs.iter().chain(of_file.into_iter().flatten());
    let paths = files.chain(defaults).chain(selected.map(PathBuf::as_path));
    let protected = paths.filter_map(|path| std::path::absolute(path).ok()).collect();
    let confinement = ConfinementPolicy::default().with_protected(protected);
    let builder = Host::builder().keep_staged(options.keep_staged).confinement(confinement);
    let mut builder = match &options.config_file {
        Some(file) => builder.config(file.clone().with_plugin_dirs(dirs.to_vec())),
        None => dirs.iter().fold(builder, |builder, dir| builder.plugin_dir(dir)),
    };
    // An option that is not given leaves the value of the configuration.
    if options.allow_unverified {
        builder = builder.allow_unverified(true);
    }
    if options.allow_writable {
        builder = builder.allow_writable_by_others(true);
    }
    builder
}

/// Returns the paths in backticks, separated by commas.
pub(crate) fn quoted(dirs: &[PathBuf]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|dir| format!("`{}`", dir.display())).collect();
    dirs.join(", ")
}

/// A plugin's folder, and its name if it is an instance that the configuration names.
pub(crate) struct FoundPlugin {
    pub(crate) folder: PathBuf,
    pub(crate) instance: Option<String>,
}

impl From<PathBuf> for FoundPlugin {
    fn from(folder: PathBuf) -> Self {
        Self { folder, instance: None }
    }
}

/// Returns the folder of a plugin that is given by its name, its folder or its manifest.
pub(crate) fn find_folder(plugin: &str, options: &Options) -> Result<PathBuf, Failure> {
    find(plugin, options).map(|found| found.folder)
}

/// Finds a plugin that is given by its name, its folder or its manifest.
pub(crate) fn find(plugin: &str, options: &Options) -> Result<FoundPlugin, Failure> {
    let path = Path::new(plugin);
    if path.file_name().is_some_and(|name| name == "plugin.json") {
        let folder = path.parent().unwrap_or(Path::new(""));
        let is_current = folder.as_os_str().is_empty();
        let folder = if is_current { ".".into() } else { folder.to_owned() };
        return Ok(folder.into());
    }
    if PluginName::new(plugin).is_err() {
        return Ok(path.to_owned().into());
    }
    let is_folder = path.join("plugin.json").is_file();
    if is_folder && selected_dirs(options).is_none() {
        return Ok(path.to_owned().into());
    }
    let dirs = dirs(options);
    let Survey { plugins: surveyed, errors, .. } = inspect::survey(&builder(options, &dirs));
    let found: Vec<_> = named(&surveyed, plugin).collect();
    match found.as_slice() {
        [one] => Ok(FoundPlugin {
            folder: one.folder.clone(),
            instance: one.instance.as_ref().map(ToString::to_string),
        }),
        [] if is_folder => Ok(path.to_owned().into()),
        [] => Err(not_found(plugin, &surveyed, &errors, &dirs)),
        several => {
            let found = several.len();
            let folders: Vec<_> = several.iter().map(|one| one.folder.clone()).collect();
            let message = format!("found {found} plugins named `{plugin}`: {}", quoted(&folders));
            Err(Failure::new("duplicate", message)
                .with_hint("pass the plugin's folder instead of its name"))
        }
    }
}

/// Returns the plugins with these names and all their requirements, as the host finds them.
pub(crate) fn with_required(
    names: &[String],
    surveyed: &[SurveyedPlugin],
    errors: &[Error],
    dirs: &[PathBuf],
) -> Result<Vec<Discovered>, Failure> {
    let mut places = BTreeSet::new();
    for name in names {
        if named(surveyed, name).next().is_none() {
            return Err(not_found(name, surveyed, errors, dirs));
        }
        for one in named(surveyed, name) {
            places.insert(place(one));
            places.extend(required(one, surveyed));
        }
    }
    let discovered = places.into_iter().map(|(folder, instance)| discovered(folder, instance));
    Ok(discovered.collect())
}

/// Returns a plugin as a host finds it, by its folder and its name if it is an instance that the
/// configuration names.
pub(crate) fn discovered(folder: &Path, instance: Option<impl AsRef<str>>) -> Discovered {
    let discovered = Discovered::new(folder);
    match instance {
        Some(name) => discovered.with_options(LoadOptions::new().with_name(name.as_ref())),
        None => discovered,
    }
}

/// The folder of a plugin, and its name if it is an instance that the configuration names.
pub(crate) type Place<'a> = (&'a Path, Option<&'a PluginName>);

pub(crate) fn place(plugin: &SurveyedPlugin) -> Place<'_> {
    (&plugin.folder, plugin.instance.as_ref())
}

/// Returns the places of a plugin's direct and indirect requirements, without its own.
pub(crate) fn required<'a>(
    plugin: &'a SurveyedPlugin,
    surveyed: &'a [SurveyedPlugin],
) -> BTreeSet<Place<'a>> {
    let mut places = BTreeSet::new();
    let mut pending = vec![plugin];
    while let Some(one) = pending.pop() {
        let Some(manifest) = &one.manifest else {
            continue;
        };
        for name in manifest.requires().keys() {
            for next in named(surveyed, name.as_str()) {
                if place(next) != place(plugin) && places.insert(place(next)) {
                    pending.push(next);
                }
            }
        }
    }
    places
}

/// Returns the plugins with this name. A folder without a readable manifest has its own name.
fn named<'a>(
    surveyed: &'a [SurveyedPlugin],
    name: &'a str,
) -> impl Iterator<Item = &'a SurveyedPlugin> {
    surveyed.iter().filter(move |one| match (&one.manifest, &one.instance) {
        (Some(manifest), _) => manifest.name().as_str() == name,
        (None, Some(instance)) => instance.as_str() == name,
        (None, None) => one.folder.file_name().is_some_and(|folder| folder == name),
    })
}

/// Returns the error for a plugin that was not found. The errors of the survey are its reason.
fn not_found(
    name: &str,
    surveyed: &[SurveyedPlugin],
    errors: &[Error],
    dirs: &[PathBuf],
) -> Failure {
    let names = surveyed.iter().filter_map(|one| one.manifest.as_ref());
    let names: BTreeSet<_> = names.map(|manifest| manifest.name().as_str()).collect();
    let hint = match nearest(name, names.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if names.is_empty() => NO_PLUGINS_HINT.to_owned(),
        None => "run `hotbay list` to see all plugins".to_owned(),
    };
    let message = match dirs {
        [] => format!("plugin `{name}` not found"),
        dirs => format!("plugin `{name}` not found in {}", quoted(dirs)),
    };
    let mut failure = Failure::new("not_found", message);
    // Without a directory, the note about it has the hint already.
    if !dirs.is_empty() {
        failure = failure.with_hint(hint);
    }
    // A plugin whose manifest cannot be read may be the one.
    let unnamed = surveyed.iter().filter(|one| one.manifest.is_none());
    let errors: Vec<_> =
        errors.iter().chain(unnamed.filter_map(|one| one.problem.as_ref())).collect();
    if errors.is_empty() {
        return failure;
    }
    let reasons = errors.iter().take(MAX_REASONS).map(|error| error.full_message());
    let mut reasons: Vec<_> = reasons.collect();
    let more = errors.len() - reasons.len();
    if more > 0 {
        let errors = if more == 1 { "error was" } else { "errors were" };
        reasons.push(format!("{more} more {errors} found"));
    }
    failure.because(reasons.join("; "))
}
