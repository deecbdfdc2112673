//! Loads all plugins: discovers them, reads their manifests, orders them, then starts them level by
//! level, several at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotbay_manifest::{Manifest, StartCandidate, Unstartable, start_order};
use hotbay_plugin::Snapshot;
use semver::Version;

use super::discovery::Discovered;
use super::inner::{Inner, absolute};
use super::parallel::each;
use super::registry::Loadable;
use crate::artifact::discover::{FolderSearch, search};
use crate::artifact::trust::Rules;
use crate::error::{Error, ErrorKind};
use crate::id::{GenerationId, PluginName};
use crate::loader::{Candidate, LoadOptions, Source, SurveyRules, SurveyedPlugin, survey_one};
use crate::panic::catch_panic;

/// The outcome of [`Host::load_all`](crate::Host::load_all).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotbay::Error> {
/// let host = hotbay::Host::builder().plugin_dir("no/such/folder").build()?;
/// let report = host.load_all().await;
/// assert!(report.loaded.is_empty() && !report.is_clean());
/// for refused in &report.refused {
///     eprintln!("{}", refused.error.full_message());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct LoadReport {
    /// The plugins that this call loaded, sorted by name.
    pub loaded: Vec<LoadedPlugin>,
    /// The plugins that were refused, sorted by name or folder.
    pub refused: Vec<RefusedPlugin>,
}

/// A plugin that was loaded.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadedPlugin {
    /// The plugin.
    pub name: PluginName,
    /// The version of its build.
    pub version: Version,
    /// Its generation.
    pub generation: GenerationId,
    /// Requests of its manifest that the host did not fulfill. One sentence each.
    pub notes: Vec<String>,
}

/// A plugin that was not loaded.
#[derive(Debug)]
#[non_exhaustive]
pub struct RefusedPlugin {
    /// Its folder.
    pub folder: PathBuf,
    /// The name of the plugin, if its manifest could be read.
    pub name: Option<PluginName>,
    /// The reason it was refused.
    pub error: Error,
}

impl LoadReport {
    /// Returns whether no plugin was refused.
    pub fn is_clean(&self) -> bool {
        self.refused.is_empty()
    }

    fn refuse(&mut self, host: &Inner, folder: &Path, error: Error) {
        let refused: Result<(), Error> = Err(error);
        host.emit_refused(folder, &refused);
        if let Err(error) = refused {
            let name = error.plugin().cloned();
            self.refused.push(RefusedPlugin { folder: folder.to_owned(), name, error });
        }
    }
}

/// Reports that none of `dirs` was read.
pub(super) fn refused(dirs: &[PathBuf], error: Error) -> LoadReport {
    let folder = dirs.first().cloned().unwrap_or_else(|| PathBuf::from("."));
    LoadReport { loaded: Vec::new(), refused: vec![RefusedPlugin { folder, name: None, error }] }
}

/// Loads the plugins that are wanted and do not serve yet.
pub(super) fn load_all(host: &Inner, is_wanted: &dyn Fn(&PluginName) -> bool) -> LoadReport {
    let mut report = LoadReport::default();
    let mut found = discover(host, &mut report);
    let serving = host.registry.serving();
    found.retain(|plugin| !is_serving(plugin, &serving));
    let settings = host.context.settings.load();
    let read = each(&found, |plugin| plugin.read(&host.context.rules));
    let mut candidates = Vec::new();
    for (plugin, candidate) in found.into_iter().zip(read) {
        match candidate {
            Ok(candidate) if is_loaded(&candidate, &serving) => {}
            Ok(candidate) if settings.is_disabled(candidate.manifest.name()) => {}
            Ok(candidate) if !is_wanted(candidate.manifest.name()) => {}
            Ok(candidate) => candidates.push((candidate, plugin.state)),
            // Which plugin is in the folder is unknown, unless it is an instance.
            Err(_) if !plugin.instance().is_none_or(|name| is_wanted(&name)) => {}
            Err(error) => {
                let error = plugin.instance().iter().fold(error, Error::of);
                report.refuse(host, &plugin.folder, error);
            }
        }
    }
    let candidates = without_duplicates(host, candidates, &mut report);
    let (candidates, states): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
    start(host, &candidates, &states, &mut report);
    report.loaded.sort_by(|one, other| one.name.cmp(&other.name));
    report
        .refused
        .sort_by(|one, other| (&one.name, &one.folder).cmp(&(&other.name, &other.folder)));
    report
}

/// Surveys all plugins of `dirs` without running them.
pub(crate) fn survey(
    dirs: &[PathBuf],
    host: SurveyRules<'_>,
) -> (Vec<SurveyedPlugin>, FolderSearch) {
    let found = search(dirs, host.rules);
    let folders = found.folders.iter().map(|folder| (folder, None));
    let instances = host.settings.instances().map(|(name, folder)| (folder, Some(name)));
    let all: Vec<_> = folders.chain(instances).collect();
    let mut surveyed = each(&all, |(folder, name)| survey_one(folder, host, *name));
    for (index, problem) in problems_together(&surveyed) {
        surveyed[index].problem.get_or_insert(problem);
    }
    (surveyed, found)
}

/// Returns the problems between plugins: names used twice and unmet requirements.
fn problems_together(surveyed: &[SurveyedPlugin]) -> Vec<(usize, Error)> {
    let mut by_name: BTreeMap<&PluginName, Vec<(usize, &Manifest)>> = BTreeMap::new();
    for (index, one) in surveyed.iter().enumerate() {
        if let Some(manifest) = &one.manifest {
            by_name.entry(manifest.name()).or_default().push((index, manifest));
        }
    }
    let mut problems = BTreeMap::new();
    let mut unique = Vec::new();
    for (name, same) in by_name {
        if let [one] = same.as_slice() {
            unique.push(*one);
            continue;
        }
        let places: Vec<_> = same.iter().map(|(index, _)| &*surveyed[*index].folder).collect();
        problems.extend(same.iter().map(|(index, _)| (*index, duplicate(name, &places))));
    }
    let applicants: Vec<_> =
        unique.iter().map(|(_, manifest)| StartCandidate::from(*manifest)).collect();
    let order = start_order(&applicants);
    let refuse = |(index, manifest): (usize, &Manifest), why| {
        (index, Candidate::compiled_in(manifest.clone()).not_startable(why))
    };
    problems.extend(order.refused.into_iter().map(|(rank, why)| refuse(unique[rank], why)));
    let mut refused: BTreeSet<_> = surveyed
        .iter()
        .enumerate()
        .filter(|(index, one)| one.problem.is_some() || problems.contains_key(index))
        .filter_map(|(_, one)| Some(one.manifest.as_ref()?.name()))
        .collect();
    // In the start order, so that a refusal reaches all dependents.
    for (index, manifest) in order.levels.into_iter().flatten().map(|rank| unique[rank]) {
        let required = manifest.requires().keys().find(|name| refused.contains(name));
        if let Some(required) = required.cloned() {
            refused.insert(manifest.name());
            problems.extend([refuse((index, manifest), Unstartable::Refused { required })]);
        }
    }
    problems.into_iter().collect()
}

/// Maximum number of folders in the error of a name that was found several times.
const MAX_PLACES: usize = 8;

/// Returns the error of each of several plugins with the same name.
fn duplicate(name: &PluginName, places: &[&Path]) -> Error {
    let shown = places.iter().take(MAX_PLACES).map(|place| format!("`{}`", place.display()));
    let shown = shown.collect::<Vec<_>>().join(", ");
    let more = match places.len().saturating_sub(MAX_PLACES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!("was found {} times: in {shown}{more}", places.len());
    let error = Error::new(ErrorKind::Duplicate, message).of(name);
    error.with_hint("remove all but one, or give each a different `name`")
}

/// A plugin that was discovered.
struct Found {
    folder: PathBuf,
    options: Arc<LoadOptions>,
    state: Option<Snapshot>,
}

impl Found {
    /// Returns the name that the options give it.
    fn instance(&self) -> Option<PluginName> {
        self.options.name().and_then(|name| PluginName::new(name).ok())
    }

    fn read(&self, rules: &Rules) -> Result<Candidate, Error> {
        Candidate::read_with(&self.folder, rules, &self.options)
    }
}

fn discover(host: &Inner, report: &mut LoadReport) -> Vec<Found> {
    let discovered = catch_panic(|| host.discovery.discover()).unwrap_or_else(|message| {
        let message = format!("plugin discovery panicked: {message}");
        vec![Err(Error::new(ErrorKind::LayerPanicked, message))]
    });
    let mut found = Vec::new();
    for plugin in discovered {
        match plugin {
            Ok(Discovered { folder, mut options }) => {
                let state = options.take_state();
                let (folder, options) = (absolute(&folder), Arc::new(options));
                found.push(Found { folder, options, state });
            }
            Err(error) => report.refuse(host, Path::new("."), error),
        }
    }
    found
}

/// Returns whether the plugin is definitely loaded already, before its manifest is read.
fn is_serving(plugin: &Found, serving: &[Loadable]) -> bool {
    let is_same = |there: &Loadable| {
        there.folder.as_ref() == Some(&plugin.folder)
            && there.options.name() == plugin.options.name()
    };
    serving.iter().any(is_same)
}

/// Returns whether the plugin is loaded already, from the same folder under the same name.
fn is_loaded(candidate: &Candidate, serving: &[Loadable]) -> bool {
    let name = candidate.manifest.name();
    serving.iter().any(|there| there.folder == candidate.folder && there.manifest.name() == name)
}

/// Refuses all candidates that have the same name.
fn without_duplicates(
    host: &Inner,
    candidates: Vec<(Candidate, Option<Snapshot>)>,
    report: &mut LoadReport,
) -> Vec<(Candidate, Option<Snapshot>)> {
    let mut by_name: BTreeMap<PluginName, Vec<_>> = BTreeMap::new();
    for candidate in candidates {
        by_name.entry(candidate.0.manifest.name().clone()).or_default().push(candidate);
    }
    let mut left = Vec::new();
    for (name, mut same) in by_name {
        if same.len() == 1 {
            left.append(&mut same);
            continue;
        }
        let places: Vec<_> = same.iter().filter_map(|(one, _)| one.folder.as_deref()).collect();
        for place in &places {
            report.refuse(host, place, duplicate(&name, &places));
        }
    }
    left
}

fn start(
    host: &Inner,
    candidates: &[Candidate],
    states: &[Option<Snapshot>],
    report: &mut LoadReport,
) {
    let serving = host.registry.serving();
    // Serving plugins come first in the list, so indices beyond them are candidates.
    let is_new = |name: &PluginName| candidates.iter().all(|one| one.manifest.name() != name);
    let serving: Vec<_> =
        serving.iter().map(|there| &there.manifest).filter(|one| is_new(one.name())).collect();
    let mut applicants: Vec<_> =
        serving.iter().map(|manifest| StartCandidate::from(&***manifest)).collect();
    applicants.extend(candidates.iter().map(|one| StartCandidate::from(&one.manifest)));
    let order = start_order(&applicants);
    for (index, problem) in order.refused {
        if let Some(candidate) = index.checked_sub(serving.len()).map(|index| &candidates[index]) {
            report.refuse(host, candidate.place(), candidate.not_startable(problem));
        }
    }
    for level in order.levels {
        let level: Vec<_> = level
            .into_iter()
            .filter_map(|index| index.checked_sub(serving.len()))
            .map(|index| (&candidates[index], &states[index]))
            .collect();
        let load = |candidate: &Candidate, state: &Option<Snapshot>| {
            host.load(candidate, Source::Library, state.clone())
        };
        let loaded = each(&level, |(candidate, state)| load(candidate, state));
        for ((candidate, _), loaded) in level.into_iter().zip(loaded) {
            match loaded {
                Ok(_) => report.loaded.extend(loaded_plugin(host, candidate)),
                // Another thread loads it.
                Err(error)
                    if error.kind() == ErrorKind::Duplicate
                        && host.registry.is_present(candidate) => {}
                Err(error) => report.refuse(host, candidate.place(), error),
            }
        }
    }
}

fn loaded_plugin(host: &Inner, candidate: &Candidate) -> Option<LoadedPlugin> {
    let info = host.registry.info(candidate.manifest.name())?;
    Some(LoadedPlugin {
        name: info.name,
        version: info.version,
        generation: info.generation?,
        notes: info.notes,
    })
}
