//! `cargo xtask build-plugins --watch`: builds again what changed, until Ctrl-C.
//! Leaves everything installed as it is when a build fails.

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
use super::{Plan, Source, count};

/// How often one looks whether to end, and how long nothing may change before a build: editors
/// and git write several files at once.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Something that never stops writing is built all the same.
const QUIET_TIMEOUT: Duration = Duration::from_secs(2);

/// What was heard of the file system.
enum Heard {
    Changed(BTreeSet<PathBuf>),
    /// Some changes were lost.
    AnythingChanged,
    Ended,
}

/// Builds all, then what changes.
pub(super) fn watch(plan: &Plan<'_>) -> anyhow::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second one does not wait for the build that runs.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, ended.clone())?;
        signal_hook::flag::register(signal, ended.clone())?;
    }
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender).context("cannot watch files")?;
    let sources = plan.sources()?;
    let mut known = names(&sources);
    // Before the build, so that what changes meanwhile is seen.
    let mut watched = listen(&mut watcher, plan, &sources);
    build(plan, sources, &ended);
    if !ended.load(Ordering::Relaxed) {
        println!("watching {}; Ctrl-C ends", count(watched.len()));
    }
    loop {
        let changed = match hear(&events, &ended) {
            Heard::Ended => return Ok(()),
            Heard::AnythingChanged => None,
            Heard::Changed(paths) => Some(paths),
        };
        let sources = match plan.sources() {
            Ok(sources) => sources,
            Err(error) => {
                eprintln!("error: {error:#}");
                continue;
            }
        };
        let expected: BTreeSet<String> = match &changed {
            None => names(&sources),
            Some(paths) => {
                let of = |path: &PathBuf| affected(path, &watched);
                if let Some(path) = paths.iter().find(|path| !of(path).is_empty()) {
                    println!("changed {}", plan.workspace.told(path));
                }
                paths.iter().flat_map(of).map(str::to_owned).collect()
            }
        };
        // Folders may have come or gone.
        watched = listen(&mut watcher, plan, &sources);
        let now = names(&sources);
        let is_due = |one: &Source| expected.contains(&one.name) || !known.contains(&one.name);
        build(plan, sources.into_iter().filter(is_due).collect(), &ended);
        known = now;
    }
}

fn names(sources: &[Source]) -> BTreeSet<String> {
    sources.iter().map(|source| source.name.clone()).collect()
}

fn build(plan: &Plan<'_>, sources: Vec<Source>, ended: &AtomicBool) {
    for source in sources {
        let name = source.name.clone();
        let outcome = plan.build(source);
        // Ctrl-C ends cargo too, which is no failure of the plugin.
        if ended.load(Ordering::Relaxed) {
            return;
        }
        match outcome {
            Ok(line) => println!("{line}"),
            Err(error) => {
                let left = match plan.out.join(&name).join("plugin.json").is_file() {
                    true => "the last good build stays installed",
                    false => "nothing of it is installed yet",
                };
                eprintln!("error: plugin `{name}`: {error:#}; {left}");
            }
        }
    }
}

/// Waits for a change, and then until nothing changes for a moment.
fn hear(events: &Receiver<notify::Result<notify::Event>>, ended: &AtomicBool) -> Heard {
    let mut paths = BTreeSet::new();
    let mut at_latest: Option<Instant> = None;
    loop {
        let event = events.recv_timeout(POLL_INTERVAL);
        if ended.load(Ordering::Relaxed) {
            return Heard::Ended;
        }
        match event {
            // Reading is no change; cargo reads all the time.
            Ok(Ok(event)) if event.kind.is_access() => {}
            Ok(Ok(event)) if event.need_rescan() => return Heard::AnythingChanged,
            Ok(Ok(event)) => {
                paths.extend(event.paths);
                at_latest.get_or_insert_with(|| Instant::now() + QUIET_TIMEOUT);
            }
            Ok(Err(error)) => {
                eprintln!("warning: some changes may not have been seen: {error}");
                return Heard::AnythingChanged;
            }
            Err(RecvTimeoutError::Timeout) if paths.is_empty() => {}
            Err(RecvTimeoutError::Timeout) => return Heard::Changed(paths),
            // The watcher lives as long as the caller.
            Err(RecvTimeoutError::Disconnected) => return Heard::Ended,
        }
        if at_latest.is_some_and(|latest| latest <= Instant::now()) {
            return Heard::Changed(paths);
        }
    }
}

/// Watches where the sources lie now; what could not be watched is told.
fn listen(watcher: &mut RecommendedWatcher, plan: &Plan<'_>, sources: &[Source]) -> Vec<Watched> {
    let watched: Vec<_> = sources.iter().map(|source| plan.watched(source)).collect();
    let mut places = BTreeMap::new();
    // Where new plugins appear, file by file.
    let entries = fs::read_dir(&plan.from).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path()).chain([plan.from.clone()]);
    places.extend(folders.map(|folder| (folder, RecursiveMode::NonRecursive)));
    for one in &watched {
        let MadeOf::Crate { crates, root } = &one.made_of else {
            places.insert(one.folder.clone(), RecursiveMode::Recursive);
            continue;
        };
        let root = root.parent().map(Path::to_owned);
        places.extend(root.map(|root| (root, RecursiveMode::NonRecursive)));
        for folder in crates.iter().chain([&one.folder]) {
            // Not all of it: `target` may lie there.
            places.insert(folder.clone(), RecursiveMode::NonRecursive);
            places.insert(folder.join("src"), RecursiveMode::Recursive);
        }
    }
    for (place, mode) in places.into_iter().filter(|(place, _)| place.is_dir()) {
        if let Err(error) = watcher.watch(&place, mode) {
            eprintln!("warning: changes in `{}` are not seen: {error}", place.display());
        }
    }
    watched
}
