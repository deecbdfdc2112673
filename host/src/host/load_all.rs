//! Loads everything there is: found, read, put in order, then started level by level, several
//! at once.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use semver::Version;

use super::Inner;
use crate::error::manifest::Unstartable;
use crate::error::{Error, ErrorKind};
use crate::id::{GenerationId, PluginName};
use crate::manifest::{Manifest, StartCandidate, start_order};
use crate::reload::{Candidate, Rules, Source, SurveyedPlugin, folders, survey_one};
use crate::sync::lock;

/// What came of loading everything.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct LoadReport {
    /// What was loaded now, sorted by name.
    pub loaded: Vec<LoadedPlugin>,
    /// What was refused, sorted by name or folder.
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
    /// The generation that serves.
    pub generation: GenerationId,
    /// What its manifest asked for and did not get, in words.
    pub notes: Vec<String>,
}

/// A plugin that was not loaded.
#[derive(Debug)]
#[non_exhaustive]
pub struct RefusedPlugin {
    /// Where it lies.
    pub folder: PathBuf,
    /// The plugin, as far as its manifest could be read.
    pub name: Option<PluginName>,
    /// Why.
    pub error: Error,
}

impl LoadReport {
    /// Whether nothing was refused.
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

pub(super) fn load_all(host: &Inner) -> LoadReport {
    let mut report = LoadReport::default();
    let (found, problems) = folders(&host.dirs, &host.workshop.rules);
    for problem in problems {
        report.refuse(host, Path::new("."), problem);
    }
    let serving = host.table.serving();
    let found = without_those_that_serve(found, &serving);
    let read = each(&found, |folder| Candidate::read(folder, &host.workshop.rules));
    let mut candidates = Vec::new();
    for (folder, candidate) in found.iter().zip(read) {
        match candidate {
            Ok(candidate) => candidates.push(candidate),
            Err(error) => report.refuse(host, folder, error),
        }
    }
    let candidates = without_duplicates(host, candidates, &mut report);
    start(host, &candidates, &mut report);
    report.loaded.sort_by(|one, other| one.name.cmp(&other.name));
    report
        .refused
        .sort_by(|one, other| (&one.name, &one.folder).cmp(&(&other.name, &other.folder)));
    report
}

/// Looks at everything without running it.
pub(super) fn survey(dirs: &[PathBuf], rules: &Rules) -> (Vec<SurveyedPlugin>, Vec<Error>) {
    let (found, problems) = folders(dirs, rules);
    let mut surveyed = each(&found, |folder| survey_one(folder, rules));
    for (index, problem) in problems_together(&surveyed) {
        surveyed[index].problem.get_or_insert(problem);
    }
    (surveyed, problems)
}

/// What no folder shows by itself: names that are there twice, requirements that are not met.
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
    let applicants: Vec<_> = unique.iter().map(|(_, manifest)| applicant(manifest)).collect();
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
    // In the order of starts, so that a refusal is passed on all the way up.
    for (index, manifest) in order.levels.into_iter().flatten().map(|rank| unique[rank]) {
        let required = manifest.requires().keys().find(|name| refused.contains(name));
        if let Some(required) = required.cloned() {
            refused.insert(manifest.name());
            problems.extend([refuse((index, manifest), Unstartable::Refused { required })]);
        }
    }
    problems.into_iter().collect()
}

/// The error of each of several plugins of one name.
fn duplicate(name: &PluginName, places: &[&Path]) -> Error {
    let shown: Vec<_> = places.iter().map(|place| format!("`{}`", place.display())).collect();
    let message = format!(
        "is there {} times: in {}; rename all but one by their `name`",
        places.len(),
        shown.join(" and in ")
    );
    Error::new(ErrorKind::Duplicate, message).of(name)
}

type Serving = [(std::sync::Arc<crate::manifest::Manifest>, Option<PathBuf>)];

fn without_those_that_serve(found: Vec<PathBuf>, serving: &Serving) -> Vec<PathBuf> {
    let there: std::collections::HashSet<_> =
        serving.iter().filter_map(|(_, folder)| folder.as_deref()).collect();
    found.into_iter().filter(|folder| !there.contains(folder.as_path())).collect()
}

/// Refuses all of those that want the same name: which one is meant, nobody knows.
fn without_duplicates(
    host: &Inner,
    candidates: Vec<Candidate>,
    report: &mut LoadReport,
) -> Vec<Candidate> {
    let mut by_name: BTreeMap<PluginName, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_name.entry(candidate.manifest.name().clone()).or_default().push(candidate);
    }
    let mut left = Vec::new();
    for (name, mut same) in by_name {
        if same.len() == 1 {
            left.append(&mut same);
            continue;
        }
        let places: Vec<_> = same.iter().filter_map(|one| one.folder.as_deref()).collect();
        for place in &places {
            report.refuse(host, place, duplicate(&name, &places));
        }
    }
    left
}

fn start(host: &Inner, candidates: &[Candidate], report: &mut LoadReport) {
    let serving = host.table.serving();
    // What serves comes first in the list, so that indices beyond it are candidates.
    let is_new = |name: &PluginName| candidates.iter().all(|one| one.manifest.name() != name);
    let serving: Vec<_> =
        serving.iter().map(|(manifest, _)| manifest).filter(|one| is_new(one.name())).collect();
    let mut applicants: Vec<_> = serving.iter().map(|manifest| applicant(manifest)).collect();
    applicants.extend(candidates.iter().map(Candidate::start_candidate));
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
            .map(|index| &candidates[index])
            .collect();
        let loaded = each(&level, |candidate| host.load(candidate, Source::Library, None));
        for (candidate, loaded) in level.into_iter().zip(loaded) {
            match loaded {
                Ok(_) => report.loaded.extend(loaded_plugin(host, candidate)),
                Err(error) => report.refuse(host, candidate.place(), error),
            }
        }
    }
}

fn applicant(manifest: &Manifest) -> StartCandidate<'_> {
    StartCandidate {
        name: manifest.name(),
        version: manifest.version(),
        requires: manifest.requires(),
    }
}

fn loaded_plugin(host: &Inner, candidate: &Candidate) -> Option<LoadedPlugin> {
    let info = host.table.info(candidate.manifest.name())?;
    Some(LoadedPlugin {
        name: info.name,
        version: info.version,
        generation: info.generation?,
        notes: info.notes,
    })
}

/// Does `work` for each item on as many threads as there are cores; answers in order.
fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let take = || {
        while let Some((index, item)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            items.get(index).map(|item| (index, item))
        } {
            let result = work(item);
            lock(&done).push((index, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..cores.min(items.len()) {
            scope.spawn(take);
        }
        take();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
