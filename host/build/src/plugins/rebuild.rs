//! The builds of a watch: with the `watch` profile, and without cargo if only a crate's own sources
//! changed. Measures the steps of each.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::artifact::{self, Profile};
use super::inputs::{Inputs, texts_of_settings};
use super::manifest::{Kind, Manifest};
use super::record::Recorder;
use super::replay::{Messages, Outcome, Replay};
use super::{Build, agree, shown, target};

/// The steps of a build, in order, with their durations.
#[derive(Debug, Default)]
pub(super) struct Steps(Vec<(&'static str, Duration)>);

impl Steps {
    pub(super) fn add(&mut self, step: &'static str, took: Duration) {
        self.0.push((step, took));
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (step, took)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{step} {} ms", took.as_millis())?;
        }
        Ok(())
    }
}

/// The commands that can be run again, by the folders of their crates.
#[derive(Debug, Default)]
pub(super) struct Rebuilds {
    replays: BTreeMap<PathBuf, Replay>,
    /// The crates whose command never ran again.
    cold: Vec<PathBuf>,
}

impl Rebuilds {
    /// Builds the plugin's library or program. Uses cargo unless `only_sources` changed, which are
    /// those of the crate itself.
    pub(super) fn compile(
        &mut self,
        plugins: &Build<'_>,
        folder: &Path,
        manifest: &Manifest,
        only_sources: bool,
        steps: &mut Steps,
    ) -> anyhow::Result<PathBuf> {
        // The manifest may have become that of a program.
        let can_replay = only_sources && matches!(manifest.kind, Kind::Library { .. });
        let replay = self.replays.remove(folder).filter(|one| can_replay && one.is_current());
        if let Some(replay) = replay {
            agree(manifest, &replay.package, &shown(folder))?;
            match replay.run(Messages::Printed)? {
                Outcome::Built(built) => {
                    self.replays.insert(folder.to_owned(), replay);
                    steps.add("rustc", built.compile);
                    steps.add("link", built.link);
                    return Ok(built.file);
                }
                Outcome::Invalid(error) => {
                    self.replays.insert(folder.to_owned(), replay);
                    return Err(error);
                }
                Outcome::Unknown => {}
            }
        }
        self.compile_with_cargo(plugins, folder, manifest, steps)
    }

    fn compile_with_cargo(
        &mut self,
        plugins: &Build<'_>,
        folder: &Path,
        manifest: &Manifest,
        steps: &mut Steps,
    ) -> anyhow::Result<PathBuf> {
        let started = Instant::now();
        let (workspace, package) = plugins.package(folder, manifest)?;
        let recorder = match manifest.kind {
            Kind::Library { .. } if !plugins.release => {
                Recorder::new(folder, &texts_of_settings(folder))
            }
            _ => None,
        };
        let profile = match plugins.release {
            true => Profile::Release,
            false => Profile::Watch(recorder.as_ref()),
        };
        let target_dir = plugins.target.unwrap_or(&workspace.target);
        // The times of files may be this much behind.
        let before = SystemTime::now() - Duration::from_millis(20);
        let built = artifact::build(target_dir, &package, target(manifest), profile)?;
        steps.add("cargo", started.elapsed());
        let recorded = recorder.as_ref().and_then(Recorder::recorded);
        if let Some(recorded) = recorded {
            let compiled = fs::metadata(&built.file).and_then(|metadata| metadata.modified());
            let took = compiled.ok().and_then(|at| at.duration_since(recorded.started).ok());
            if let Some(took) = took {
                steps.add("of which rustc and link", took);
            }
            let inputs = Inputs::of(&recorded, &built.messages, &workspace, &package, before);
            let replay =
                inputs.and_then(|inputs| Replay::new(recorded, inputs, package, target_dir));
            if let Some(replay) = replay {
                self.replays.insert(folder.to_owned(), replay);
                self.cold.push(folder.to_owned());
            }
        }
        Ok(built.file)
    }

    /// Runs new commands once, so that the compiler can reuse most of it for the next change.
    pub(super) fn warm_up(&mut self, ended: &AtomicBool) {
        for folder in std::mem::take(&mut self.cold) {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            let outcome = self.replays.get(&folder).map(|one| one.run(Messages::Discarded));
            if matches!(outcome, Some(Err(_) | Ok(Outcome::Unknown))) {
                self.replays.remove(&folder);
            }
        }
    }
}
