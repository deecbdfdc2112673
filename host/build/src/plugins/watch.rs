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
use super::{Build, Source, count, shown};
use crate::print::{line, message, print_error};

/// The interval of checks for Ctrl-C, and the time without changes before a build, since editors and
/// git write several files at once.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Files that keep changing are built after this time.
const QUIET_TIMEOUT: Duration = Duration::from_secs(2);

/// A result of waiting for changes.
enum Waited {
    Changed(BTreeSet<PathBuf>),
    /// Some changes were lost.
    AnythingChanged,
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
    let mut watcher = notify::recommended_watcher(sender).context("cannot watch files")?;
    let sources = plugins.sources()?;
    let mut known = names(&sources);
    // Before the build, so that changes during it are seen.
    let mut watched = watch_folders(&mut watcher, plugins, &sources);
    build(plugins, sources, &ended)?;
    // Whether changes were not built, because no list of the plugins could be made.
    let mut behind: Option<String> = None;
    let from: Vec<_> = plugins.from.iter().map(|from| real(from)).collect();
    if !ended.load(Ordering::Relaxed) {
        line(format_args!("watching {}; press Ctrl-C to stop", count(watched.len())))?;
    }
    loop {
        let changed = match wait(&events, &ended) {
            Waited::Ended => return Ok(()),
            Waited::AnythingChanged => None,
            Waited::Changed(paths) => Some(paths),
        };
        let is_relevant = |path: &PathBuf| {
            from.iter().any(|from| path.starts_with(from)) || !affected(path, &watched).is_empty()
        };
        if changed.as_ref().is_some_and(|paths| !paths.iter().any(is_relevant)) {
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
                if let Some(path) = paths.iter().find(|path| !of(path).is_empty()) {
                    line(format_args!("changed {}", shown(path)))?;
                }
                paths.iter().flat_map(of).map(str::to_owned).collect()
            }
        };
        // Folders may have been added or removed.
        watched = watch_folders(&mut watcher, plugins, &sources);
        let now = names(&sources);
        let is_due = |one: &Source| expected.contains(&one.name) || !known.contains(&one.name);
        build(plugins, sources.into_iter().filter(is_due).collect(), &ended)?;
        known = now;
    }
}

fn names(sources: &[Source]) -> BTreeSet<String> {
    sources.iter().map(|source| source.name.clone()).collect()
}

fn build(plugins: &Build<'_>, sources: Vec<Source>, ended: &AtomicBool) -> anyhow::Result<()> {
    for source in sources {
        let name = source.name.clone();
        let outcome = plugins.build(source);
        // Ctrl-C ends cargo too, which is not a failure of the plugin.
        if ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        match outcome {
            Ok(built) => line(built)?,
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
fn wait(events: &Receiver<notify::Result<notify::Event>>, ended: &AtomicBool) -> Waited {
    let mut paths = BTreeSet::new();
    let mut at_latest: Option<Instant> = None;
    loop {
        let event = events.recv_timeout(POLL_INTERVAL);
        if ended.load(Ordering::Relaxed) {
            return Waited::Ended;
        }
        match event {
            // Reading is not a change, and cargo reads all the time.
            Ok(Ok(event)) if event.kind.is_access() => {}
            Ok(Ok(event)) if event.need_rescan() => return Waited::AnythingChanged,
            Ok(Ok(event)) => {
                paths.extend(event.paths);
                at_latest.get_or_insert_with(|| Instant::now() + QUIET_TIMEOUT);
            }
            Ok(Err(error)) => {
                message(format_args!("warning: some changes may have been missed: {error}"));
                return Waited::AnythingChanged;
            }
            Err(RecvTimeoutError::Timeout) if paths.is_empty() => {}
            Err(RecvTimeoutError::Timeout) => return Waited::Changed(paths),
            // The watcher lives as long as the caller.
            Err(RecvTimeoutError::Disconnected) => return Waited::Ended,
        }
        if at_latest.is_some_and(|latest| latest <= Instant::now()) {
            return Waited::Changed(paths);
        }
    }
}

/// Watches the current folders of the sources, and warns about those that cannot be watched.
fn watch_folders(
    watcher: &mut RecommendedWatcher,
    plugins: &Build<'_>,
    sources: &[Source],
) -> Vec<Watched> {
    let watched: Vec<_> = sources.iter().map(|source| plugins.watched(source)).collect();
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
