//! Rebuilds plugins whose files change, until Ctrl-C. After a failed build the installed plugin stays
//! as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::changes::{MadeOf, Watched, affected};
use super::install::is_temporary;
use super::rebuild::{Rebuilds, Steps};
use super::{Build, Code, Source, count, shown};
use crate::print::{line, message, print_error};

/// The interval of checks for Ctrl-C, and the time without changes before a build if several files
/// changed, since editors and git write them one after another.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The time without changes before a build if one file changed.
const ONE_FILE_INTERVAL: Duration = Duration::from_millis(20);
/// Files that keep changing are built after this time.
const QUIET_TIMEOUT: Duration = Duration::from_secs(2);

/// A change or an error, and when the watcher reported it.
type Event = (Instant, notify::Result<notify::Event>);

/// A result of waiting for changes.
enum Waited {
    /// Files changed, first reported at these times.
    Changed(BTreeMap<PathBuf, Instant>),
    /// Some changes were lost; the first one was reported at this time.
    AnythingChanged(Instant),
    Ended,
}

impl Build<'_> {
    /// Builds the plugins, then rebuilds each when its files change, until Ctrl-C.
    ///
    /// # Errors
    ///
    /// The same as [`run`](Self::run), or if the watch cannot start.
    pub fn watch(&self) -> anyhow::Result<()> {
        watch(self)
    }
}

/// Builds all plugins, then those that change.
fn watch(plugins: &Build<'_>) -> anyhow::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second signal does not wait for the current build.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, ended.clone())?;
        signal_hook::flag::register(signal, ended.clone())?;
    }
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event| {
        // The receiver lives longer than the watcher.
        let _ = sender.send((Instant::now(), event));
    })
    .context("cannot watch files")?;
    let sources = plugins.sources()?;
    let mut known = names(&sources);
    // Before the build, so that changes during it are seen.
    let mut known_folders = BTreeMap::new();
    let mut watched = watch_folders(&mut watcher, plugins, &sources, &mut known_folders);
    let mut rebuilds = Rebuilds::default();
    build(plugins, sources, &ended, &mut rebuilds, None)?;
    // Whether changes were not built, because no list of the plugins could be made.
    let mut behind: Option<String> = None;
    let from: Vec<_> = plugins.from.iter().map(|from| real(from)).collect();
    if !ended.load(Ordering::Relaxed) {
        line(format_args!("watching {}; press Ctrl-C to stop", count(watched.len())))?;
    }
    loop {
        rebuilds.warm_up(&ended);
        let idle_since = Instant::now();
        let (changed, mut since) = match wait(&events, &ended) {
            Waited::Ended => return Ok(()),
            Waited::AnythingChanged(since) => (None, since),
            Waited::Changed(paths) => {
                let since = first(&paths).unwrap_or(idle_since);
                (Some(paths), since)
            }
        };
        let is_relevant = |path: &PathBuf| {
            from.iter().any(|from| path.starts_with(from)) || !affected(path, &watched).is_empty()
        };
        if changed.as_ref().is_some_and(|paths| !paths.keys().any(is_relevant)) {
            continue;
        }
        // Before the list is made, so that changes after it are seen.
        watch_places(&mut watcher, places_of_new_plugins(&from));
        let sources = plugins.sources().or_else(|_| {
            // The change that ends the error may create one of the folders again.
            let above = from.iter().filter_map(|from| from.parent());
            let above = above.map(|above| (above.to_owned(), RecursiveMode::NonRecursive));
            watch_places(&mut watcher, above.chain(places_of_new_plugins(&from)).collect());
            plugins.sources()
        });
        let sources = match sources {
            Ok(sources) => sources,
            Err(error) => {
                let reason = format!("{error:#}");
                if behind.as_ref() != Some(&reason) {
                    print_error(&error);
                }
                behind = Some(reason);
                continue;
            }
        };
        let changed = changed.filter(|_| behind.is_none());
        behind = None;
        let expected: BTreeSet<String> = match &changed {
            None => names(&sources),
            Some(paths) => {
                let of = |path: &PathBuf| affected(path, &watched);
                let first = paths.iter().filter(|(path, _)| !of(path).is_empty());
                if let Some((path, reported)) = first.min_by_key(|(_, reported)| **reported) {
                    line(format_args!("changed {}", shown(path)))?;
                    since = *reported;
                }
                paths.keys().flat_map(of).map(str::to_owned).collect()
            }
        };
        let is_manifest =
            |path: &PathBuf| path.file_name().is_some_and(|name| name == "Cargo.toml");
        if changed.as_ref().is_none_or(|paths| paths.keys().any(is_manifest)) {
            known_folders.clear();
        }
        // The compiler reads the sources of a crate itself; cargo checks everything else.
        let is_own = |source: &Source| {
            let is_of = |path: &&PathBuf| affected(path, &watched).contains(source.name.as_str());
            let mut paths = changed.iter().flat_map(BTreeMap::keys).filter(is_of);
            changed.is_some() && paths.all(|path| path.starts_with(&source.folder))
        };
        let only_own: BTreeSet<_> =
            sources.iter().filter(|one| is_own(one)).map(|one| one.name.clone()).collect();
        // Folders may have been added or removed.
        watched = watch_folders(&mut watcher, plugins, &sources, &mut known_folders);
        let now = names(&sources);
        let is_due = |one: &Source| expected.contains(&one.name) || !known.contains(&one.name);
        let due = sources.into_iter().filter(is_due).collect();
        build(plugins, due, &ended, &mut rebuilds, Some(Round { since, idle_since, only_own }))?;
        known = now;
    }
}

fn names(sources: &[Source]) -> BTreeSet<String> {
    sources.iter().map(|source| source.name.clone()).collect()
}

/// The changes that made builds necessary.
struct Round {
    /// When the first change was reported.
    since: Instant,
    /// The end of the builds before it.
    idle_since: Instant,
    /// The plugins of which only the folder's own files changed.
    only_own: BTreeSet<String>,
}

fn build(
    plugins: &Build<'_>,
    sources: Vec<Source>,
    ended: &AtomicBool,
    rebuilds: &mut Rebuilds,
    round: Option<Round>,
) -> anyhow::Result<()> {
    let noticed = Instant::now();
    for source in sources {
        let name = source.name.clone();
        let mut steps = Steps::default();
        if let Some(round) = &round {
            let waited = round.idle_since.saturating_duration_since(round.since);
            if waited > Duration::from_millis(1) {
                steps.add("earlier build", waited);
            }
            steps.add("detection", noticed - round.since.max(round.idle_since));
        }
        let started = Instant::now();
        if started - noticed > Duration::from_millis(1) {
            steps.add("other plugins", started - noticed);
        }
        let only_sources = round.as_ref().is_some_and(|round| round.only_own.contains(&name));
        let mut compiled = started;
        let is_go = source.code == Code::GoModule;
        let outcome = plugins.build_with(source, |folder, manifest| {
            let built = rebuilds.compile(plugins, folder, manifest, only_sources, &mut steps);
            compiled = Instant::now();
            built
        });
        steps.add(if is_go { "go and install" } else { "install" }, compiled.elapsed());
        // Ctrl-C ends cargo too, which is not a failure of the plugin.
        if ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        match outcome {
            Ok(built) => {
                line(built)?;
                if let Some(round) = &round {
                    let total = round.since.elapsed().as_millis();
                    line(format_args!("  {total} ms after the change: {steps}"))?;
                }
            }
            Err(error) => {
                let state = match plugins.out.join(&name).join("plugin.json").is_file() {
                    true => "the last successful build stays installed",
                    false => "it is not installed yet",
                };
                print_error(&error.context(format!("plugin `{name}` was not built ({state})")));
            }
        }
    }
    Ok(())
}

/// Waits for a change, and then until nothing changes for a moment.
fn wait(events: &Receiver<Event>, ended: &AtomicBool) -> Waited {
    let mut paths = BTreeMap::new();
    let mut received: Option<Instant> = None;
    loop {
        let event = events.recv_timeout(quiet_interval(&paths));
        if ended.load(Ordering::Relaxed) {
            return Waited::Ended;
        }
        let (now, is_quiet) = (Instant::now(), matches!(event, Err(RecvTimeoutError::Timeout)));
        match event {
            // Reading is not a change, and cargo reads all the time.
            Ok((_, Ok(event))) if event.kind.is_access() => {}
            Ok((reported, Ok(event))) if event.need_rescan() => {
                return Waited::AnythingChanged(first(&paths).unwrap_or(reported));
            }
            Ok((reported, Ok(event))) => {
                for path in event.paths {
                    paths.entry(path).or_insert(reported);
                }
                received.get_or_insert(now);
            }
            Ok((reported, Err(error))) => {
                message(format_args!("warning: some changes may have been missed: {error}"));
                return Waited::AnythingChanged(first(&paths).unwrap_or(reported));
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The watcher lives as long as the caller.
            Err(RecvTimeoutError::Disconnected) => return Waited::Ended,
        }
        if let Some(since) = received
            && (is_quiet || now - since >= QUIET_TIMEOUT)
        {
            return Waited::Changed(paths);
        }
    }
}

fn first(changed: &BTreeMap<PathBuf, Instant>) -> Option<Instant> {
    changed.values().min().copied()
}

/// Returns the time without changes after which the changed files are built.
fn quiet_interval(changed: &BTreeMap<PathBuf, Instant>) -> Duration {
    let is_built = |path: &&PathBuf| !path.file_name().is_some_and(is_temporary);
    match changed.keys().filter(is_built).count() {
        1 => ONE_FILE_INTERVAL,
        _ => POLL_INTERVAL,
    }
}

/// Watches the current folders of the sources, and warns about those that cannot be watched. Uses
/// and extends `known`, the folders that were found since a manifest changed.
fn watch_folders(
    watcher: &mut RecommendedWatcher,
    plugins: &Build<'_>,
    sources: &[Source],
    known: &mut BTreeMap<PathBuf, Watched>,
) -> Vec<Watched> {
    let of = |source: &Source| match known.get(&source.folder) {
        Some(watched) if watched.plugin == source.name => watched.clone(),
        _ => match plugins.watched(source) {
            Ok(watched) => {
                known.insert(source.folder.clone(), watched.clone());
                watched
            }
            Err(incomplete) => incomplete,
        },
    };
    let watched: Vec<_> = sources.iter().map(of).collect();
    let from: Vec<_> = plugins.from.iter().map(|from| real(from)).collect();
    let mut places = places_of_new_plugins(&from);
    for one in &watched {
        let MadeOf::Crate { crates, root } = &one.made_of else {
            places.insert(one.folder.clone(), RecursiveMode::Recursive);
            continue;
        };
        let root = root.parent().map(Path::to_owned);
        places.extend(root.map(|root| (root, RecursiveMode::NonRecursive)));
        for folder in crates.iter().chain([&one.folder]) {
            // Not recursively: `target` may be inside.
            places.insert(folder.clone(), RecursiveMode::NonRecursive);
            places.insert(folder.join("src"), RecursiveMode::Recursive);
        }
    }
    watch_places(watcher, places);
    watched
}

type Places = BTreeMap<PathBuf, RecursiveMode>;

/// Returns the folders in which new plugins appear, file by file.
fn places_of_new_plugins(from: &[PathBuf]) -> Places {
    let mut places = BTreeMap::new();
    for from in from {
        let entries = fs::read_dir(from).into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path()).chain([from.clone()]);
        places.extend(folders.map(|folder| (folder, RecursiveMode::NonRecursive)));
    }
    places
}

/// Returns the path that sources have; without links, so that each folder is watched once.
fn real(from: &Path) -> PathBuf {
    let absolute = || std::path::absolute(from).unwrap_or_else(|_| from.to_owned());
    from.canonicalize().unwrap_or_else(|_| absolute())
}

fn watch_places(watcher: &mut RecommendedWatcher, places: Places) {
    for (place, mode) in places.into_iter().filter(|(place, _)| place.is_dir()) {
        if let Err(error) = watcher.watch(&place, mode) {
            message(format_args!("warning: cannot watch `{}`: {error}", place.display()));
        }
    }
}
