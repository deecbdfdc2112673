//! `hotbay run --watch --dev`: seals programs when they change, so that an edited script is swapped.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime};

use hotbay::Manifest;
use hotbay::inspect::{self, Survey};
use hotbay::manifest::Kind;

use crate::args::Options;
use crate::output::print_message;
use crate::plugin_dirs::{builder, quoted};
use crate::seal::seal_folder;

/// Interval of the checks for changed programs.
const INTERVAL: Duration = Duration::from_millis(50);

/// Number of checks after which new plugins are searched.
const CHECKS_PER_SURVEY: u32 = 40;

/// Seals the programs below `dirs` whenever they change, until the sender of `stopped` is dropped.
pub(crate) fn seal_on_change(dirs: &[PathBuf], options: &Options, stopped: &Receiver<()>) {
    print_message(&format!(
        "warning: `--dev` seals each program below {} when it changes, so every user that can write there \
         decides what runs",
        quoted(dirs)
    ));
    let mut programs = BTreeMap::new();
    for check in 0_u32.. {
        if check.is_multiple_of(CHECKS_PER_SURVEY) {
            find(dirs, options, &mut programs);
        }
        for (folder, program) in &mut programs {
            program.check(folder, options);
        }
        if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Adds the programs that are not known yet, and removes those that are gone.
fn find(dirs: &[PathBuf], options: &Options, programs: &mut BTreeMap<PathBuf, Program>) {
    let Survey { plugins, .. } = inspect::survey(&builder(options, dirs));
    let found = plugins.into_iter().filter(|one| one.instance.is_none()).filter_map(|one| {
        let program = program_of(&one.folder, one.manifest.as_ref()?)?;
        Some((one.folder, program))
    });
    let found: BTreeMap<_, _> = found.collect();
    programs.retain(|folder, program| found.get(folder).is_some_and(|path| *path == program.path));
    for (folder, path) in found {
        programs.entry(folder).or_insert_with(|| Program { path, ..Program::default() });
    }
}

fn program_of(folder: &Path, manifest: &Manifest) -> Option<PathBuf> {
    let is_program = manifest.kind() == Kind::Process;
    is_program.then(|| Some(folder.join(manifest.command().first()?))).flatten()
}

/// A program, and what was last done about it.
#[derive(Default)]
struct Program {
    path: PathBuf,
    /// Time and length of the file at the last check.
    seen: Option<Stamp>,
    /// Those of the file that was sealed last, or could not be.
    handled: Option<Stamp>,
}

type Stamp = (Option<SystemTime>, u64);

impl Program {
    /// Seals the program if it changed, and does not change anymore.
    fn check(&mut self, folder: &Path, options: &Options) {
        // While it is replaced, it may be missing.
        let Ok(metadata) = fs::metadata(&self.path) else { return };
        let stamp = (metadata.modified().ok(), metadata.len());
        let is_stable = self.seen.replace(stamp) == Some(stamp);
        if !is_stable || self.handled == Some(stamp) {
            return;
        }
        self.handled = Some(stamp);
        if !belongs_to_user(&metadata) || !fs::metadata(folder).is_ok_and(|it| belongs_to_user(&it))
        {
            let folder = folder.display();
            return print_message(&format!(
                "warning: `{folder}` is not sealed when it changes: it belongs to another user"
            ));
        }
        if let Err(failure) = seal_folder(folder, options) {
            failure.lines().iter().for_each(|line| print_message(line));
        }
    }
}

#[cfg(unix)]
fn belongs_to_user(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn belongs_to_user(_: &Metadata) -> bool {
    true
}
