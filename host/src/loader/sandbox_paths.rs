//! Resolves the paths that a sandbox lists. Refuses those by which the program could change what it
//! is granted.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use hotbay_manifest::Sandbox;
use hotbay_process::launch_parents;
use hotbay_sandbox::{GrantedPath, PathChecks, PathError, Policy, Protected, SharedFolders, TMP};
use rustix::fs::Access;

use super::bounds::{bounds_of, effective};
use super::candidate::Candidate;
use super::settings::PluginSettings;
use crate::artifact::discover::{self, Limits, MANIFEST};
use crate::artifact::trust::{self, Trust};
use crate::config::ConfinementPolicy;
use crate::error::{Error, ErrorKind, LoadStep};

/// A sandbox whose paths are resolved.
pub(super) struct Resolved {
    /// With its paths, but without named programs.
    pub(super) policy: Policy,
    /// The names in `run`, which are searched in `PATH`.
    pub(super) programs: Vec<String>,
    /// The folder `{state}`, if a path has it.
    pub(super) state: Option<PathBuf>,
}

/// Settings of the host for all sandboxes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SandboxHost<'h> {
    pub(super) policy: &'h ConfinementPolicy,
    pub(super) trust: Trust,
    /// Where the host makes private copies, unless that is the system's temporary folder.
    pub(super) staging_dir: Option<&'h Path>,
    /// The program that runs isolated libraries, if the host sets it.
    pub(super) runner: Option<&'h Path>,
    /// The folders that are searched for plugins.
    pub(super) plugin_dirs: &'h [PathBuf],
    /// The variables that programs inherit besides the usual ones.
    pub(super) environment: &'h [String],
}

/// The beginning of a path in the plugin's folder.
const PLUGIN: &str = "{plugin}";
/// The beginning of a path in the plugin's private folder.
const STATE: &str = "{state}";

/// What the folder with the folders `{state}` is called.
const STATES: &str = "states of plugins";

/// The hint about a folder that must not be changed.
const OTHER_FOLDER: &str = "list `{state}`, `{tmp}`, or a folder that contains only data, instead";

/// Why paths are resolved.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// For a start. Creates the folder `{state}`.
    Start,
    /// For a report. Only reads the disk.
    Survey,
}

/// Checks the paths of a program that is not started.
pub(super) fn check_paths(candidate: &Candidate, host: SandboxHost<'_>) -> Result<(), Error> {
    let (sandbox, _) = effective(&candidate.manifest, &candidate.settings, host.policy);
    let (Some(sandbox), Some(folder)) = (sandbox, &candidate.folder) else { return Ok(()) };
    let paths = Paths::new(candidate, folder, host, Purpose::Survey);
    paths.resolve(&sandbox, Policy::default()).map(drop)
}

/// Resolves the paths of one sandbox.
pub(super) struct Paths<'p> {
    candidate: &'p Candidate,
    /// Absolute.
    folder: PathBuf,
    host: SandboxHost<'p>,
    purpose: Purpose,
    bounds: Option<&'p Sandbox>,
    /// The folders in the bounds `write` of all plugins.
    writable: Vec<PathBuf>,
    /// All folders that other programs can change.
    shared: SharedFolders,
    /// The folder `{state}`, once a path has it.
    state: Option<PathBuf>,
}

impl<'p> Paths<'p> {
    /// Prepares to resolve the paths of the program in `folder`.
    pub(super) fn new(
        candidate: &'p Candidate,
        folder: &Path,
        host: SandboxHost<'p>,
        purpose: Purpose,
    ) -> Self {
        let settings = &candidate.settings;
        let bounds = bounds_of(&candidate.manifest, settings, host.policy);
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let all = settings.sandboxes().chain(&host.policy.bounds);
        let all = all.flat_map(|bounds| bounds.write.iter().flatten());
        let (below_plugin, others): (Vec<_>, Vec<_>) =
            all.partition(|path| path.starts_with(PLUGIN));
        let mut writable: Vec<_> =
            others.into_iter().map(PathBuf::from).filter(|path| path.is_absolute()).collect();
        if !below_plugin.is_empty() {
            for folder in plugin_folders(&folder, settings, host) {
                writable.extend(below_plugin.iter().map(|text| below(&folder, text, PLUGIN)));
            }
        }
        let shared = SharedFolders::new(&writable, state_dir(host.policy).as_deref());
        Self { candidate, folder, host, purpose, bounds, writable, shared, state: None }
    }

    /// Resolves the paths of a sandbox that the bounds of the host permit, and adds them to `policy`.
    pub(super) fn resolve(mut self, sandbox: &Sandbox, policy: Policy) -> Result<Resolved, Error> {
        let of = |list: fn(&Sandbox) -> &Option<Vec<String>>| {
            self.bounds.and_then(|bounds| list(bounds).as_deref()).unwrap_or_default()
        };
        let [read, write, run] = [of(|it| &it.read), of(|it| &it.write), of(|it| &it.run)];
        let programs = sandbox.run.iter().flatten().filter(|text| is_name(text)).cloned().collect();
        let read = self.list(&sandbox.read, read)?;
        let write = self.list(&sandbox.write, write)?;
        let run = self.list(&sandbox.run, run)?;
        let granted =
            |list: &[(&str, GrantedPath)]| list.iter().map(|(_, it)| it.clone()).collect();
        let policy = Policy {
            read: granted(&read),
            write: granted(&write),
            run: granted(&run),
            protected: self.protected(),
            own: [&self.folder].into_iter().chain(&self.state).cloned().collect(),
            states: state_dir(self.host.policy),
            shared: self.writable.clone(),
            ..policy
        };
        let checks = PathChecks::new(&policy);
        for (field, list) in [("read", read), ("write", write), ("run", run)] {
            for (text, granted) in list {
                self.check(&checks, field, text, &granted)?;
            }
        }
        Ok(Resolved { policy, programs, state: self.state })
    }

    /// Resolves the placeholders in the list of one field, without names of programs. `bounds` is the
    /// host's list.
    fn list<'t>(
        &mut self,
        texts: &'t Option<Vec<String>>,
        bounds: &[String],
    ) -> Result<Vec<(&'t str, GrantedPath)>, Error> {
        let paths = texts.iter().flatten().filter(|text| !is_name(text));
        paths.map(|text| Ok((text.as_str(), self.path(text, bounds)?))).collect()
    }

    /// Fails if a path must not be granted.
    fn check(
        &self,
        checks: &PathChecks,
        field: &str,
        text: &str,
        granted: &GrantedPath,
    ) -> Result<(), Error> {
        // The private folder of a launch exists only then.
        if granted.path.starts_with(TMP) {
            return Ok(());
        }
        let is_write = field == "write";
        let (reason, hint) = match checks.check(granted, is_write) {
            // One of its other names may be below it.
            Ok(()) if is_write && self.is_beside_linked_manifest(granted) => {
                ("is beside its plugin.json, which has hard links".to_owned(), OTHER_FOLDER)
            }
            Ok(()) => return Ok(()),
            // The system's own errors may pass.
            Err(PathError::Io(error)) if error.raw_os_error().is_some() => return Ok(()),
            Err(PathError::Io(error)) => (format!("cannot be granted: {error}"), "remove it"),
            Err(error @ PathError::LeadsOut { .. }) => {
                (error.to_string(), "list the target itself, and let the host grant it")
            }
            Err(error @ PathError::Protected { .. }) => (error.to_string(), OTHER_FOLDER),
        };
        let failed = self.candidate.failed(LoadStep::Confine, ErrorKind::PermissionDenied);
        let message = format!("`sandbox.{field}` lists `{text}`, which {reason}");
        Err(failed.caused_by(message).with_hint(hint))
    }

    /// Below a folder that the host grants, or that belongs to the plugin, links must not lead out of
    /// that folder: a program could have made them.
    fn path(&mut self, text: &str, bounds: &[String]) -> Result<GrantedPath, Error> {
        if text.starts_with(PLUGIN) {
            let path = below(&self.folder, text, PLUGIN);
            let real = self.folder.canonicalize().unwrap_or_else(|_| physical(&self.folder));
            return Ok(GrantedPath::inside(path, real));
        }
        if text.starts_with(STATE) {
            let state = match self.state.take() {
                Some(state) => state,
                None => self.state_folder()?,
            };
            let state = self.state.insert(state);
            let path = below(state, text, STATE);
            return Ok(GrantedPath::inside(path, physical(state)));
        }
        let path = PathBuf::from(text);
        let is_bound = bounds.iter().any(|bound| Path::new(bound) == path);
        let above: Vec<_> =
            bounds.iter().filter(|bound| path.starts_with(bound)).map(PathBuf::from).collect();
        // What the host lists itself may lead anywhere, unless a program can change that.
        Ok(match is_bound || above.is_empty() {
            true => path.into(),
            false => GrantedPath::below(path, above),
        })
    }

    /// Returns what the program must not change: files that configure plugins, and the copies that run.
    fn protected(&self) -> Vec<Protected> {
        let (host, settings) = (self.host, &self.candidate.settings);
        let own = [
            (self.folder.join(MANIFEST), "its manifest", false),
            (self.folder.clone(), "its folder", false),
        ];
        // Beside it, and in `PATH`, is the program that runs isolated libraries.
        let programs = std::env::current_exe().into_iter().chain(host.runner.map(Path::to_owned));
        let copies = launch_parents().into_iter().chain(host.staging_dir.map(Path::to_owned));
        let instances = settings.plugins.values().filter_map(|plugin| plugin.folder.clone());
        let all = own
            .into_iter()
            .chain(programs.map(|program| (program, "a program of the host", false)))
            .chain([(PathBuf::from("/proc"), "files of processes and of the kernel", true)])
            .chain(copies.map(|folder| (folder, "private folders of the host", false)))
            .chain(state_dir(host.policy).map(|folder| (folder, STATES, true)))
            .chain(settings.files.iter().map(|file| (file.clone(), "configuration", false)))
            .chain(host.plugin_dirs.iter().map(|dir| (dir.clone(), "a plugin directory", true)))
            .chain(instances.map(|folder| (folder, "the folder of a plugin", true)))
            .chain(host.policy.cgroup.iter().map(|group| (group.clone(), "control groups", true)))
            .chain(
                host.policy
                    .protected
                    .iter()
                    .map(|path| (path.clone(), "protected by the host", true)),
            );
        let all = all.filter_map(|(path, name, with_content)| {
            Some(Protected { path: std::path::absolute(path).ok()?, name, with_content })
        });
        all.collect()
    }

    fn is_beside_linked_manifest(&self, granted: &GrantedPath) -> bool {
        let manifest = self.folder.join(MANIFEST);
        let has_other_names = std::fs::metadata(manifest).is_ok_and(|file| file.nlink() > 1);
        has_other_names
            && granted.target(&self.shared).is_ok_and(|writable| {
                self.folder.canonicalize().is_ok_and(|folder| writable.starts_with(folder))
            })
    }

    /// Returns the folder `{state}`, which a start creates. Fails if others can replace it, or if it
    /// is a link.
    fn state_folder(&self) -> Result<PathBuf, Error> {
        let failed = |kind| self.candidate.failed(LoadStep::Confine, kind);
        let hint = "set `state_dir` in `[sandbox]` of hotbay.toml to a folder that only the user of \
                    the host can change";
        let state = state_dir(self.host.policy).ok_or_else(|| {
            let message = "no folder for `{state}`: neither XDG_STATE_HOME nor HOME is set";
            let hint = "set `state_dir` in `[sandbox]` of hotbay.toml";
            failed(ErrorKind::Config).caused_by(message).with_hint(hint)
        })?;
        let contains = |outer: &Path, path: &Path| {
            GrantedPath::from(outer).contains(path, &SharedFolders::default())
        };
        // Neither the folder with all states itself, nor folders that are not searched for plugins.
        let is_of_plugins =
            |it: &Protected| it.with_content && it.name != STATES && it.path != self.folder;
        let protected = self.protected();
        let is_in_plugin_dir = protected.iter().filter(|it| is_of_plugins(it)).any(|it| {
            let is_searched = state
                .strip_prefix(&it.path)
                .is_ok_and(|rest| !rest.iter().any(discover::is_skipped));
            contains(&it.path, &state) && (is_searched || !state.starts_with(&it.path))
        });
        if is_in_plugin_dir || contains(&state, &self.folder) {
            let relation =
                if is_in_plugin_dir { "is in a plugin directory" } else { "contains its folder" };
            let message = format!("`{}`, for `{{state}}`, {relation}", state.display());
            let hint = "set `state_dir` in `[sandbox]` of hotbay.toml to a folder outside of those \
                        with plugins, and not above them";
            return Err(failed(ErrorKind::Config).caused_by(message).with_hint(hint));
        }
        let state = state.join(self.candidate.manifest.name().as_str());
        if SharedFolders::new(&self.writable, None).can_replace(&state) {
            let message = format!(
                "`{}`, its `{{state}}`, is in a folder that the host lets programs change",
                state.display()
            );
            return Err(failed(ErrorKind::Integrity).caused_by(message).with_hint(hint));
        }
        let untrusted = |error| failed(ErrorKind::Integrity).caused_by(error).with_hint(hint);
        trust::check_above(&state, self.host.trust).map_err(untrusted)?;
        if let Err(error) = self.create(&state) {
            let message = format!("cannot create `{}`: {error}", state.display());
            return Err(failed(ErrorKind::StartFailed).caused_by(message).with_hint(hint));
        }
        match state.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {
                trust::check(&state, self.host.trust).map_err(untrusted)?;
            }
            // A start will create it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => {
                let message = format!("`{}`, its `{{state}}`, is not a folder", state.display());
                return Err(failed(ErrorKind::Integrity).caused_by(message).with_hint(hint));
            }
        }
        Ok(state)
    }

    /// Creates a folder that only this user can access, unless it exists. For a survey, only returns
    /// whether it could be created.
    fn create(&self, folder: &Path) -> io::Result<()> {
        match folder.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(drop),
        }
        if matches!(self.purpose, Purpose::Start) {
            return std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        }
        let existing = folder.ancestors().find(|above| above.symlink_metadata().is_ok());
        let access = Access::WRITE_OK | Access::EXEC_OK;
        Ok(rustix::fs::access(existing.unwrap_or(folder), access)?)
    }
}

/// Returns the path of a text that begins with a placeholder for `folder`.
fn below(folder: &Path, text: &str, placeholder: &str) -> PathBuf {
    folder.join(text[placeholder.len()..].trim_start_matches('/'))
}

/// Returns the folders of all plugins that are known: `own`, those of instances, and those in folders
/// of plugins.
fn plugin_folders(own: &Path, settings: &PluginSettings, host: SandboxHost<'_>) -> Vec<PathBuf> {
    let dirs = host.plugin_dirs.iter().chain(&host.policy.protected);
    let found = dirs.flat_map(|dir| discover::find(dir, Limits::default()).folders);
    let instances = settings.plugins.values().filter_map(|plugin| plugin.folder.clone());
    let all = found.chain(instances).chain([own.to_owned()]);
    all.filter_map(|folder| std::path::absolute(folder).ok()).collect()
}

/// Returns whether a text in `run` names a program of `PATH`.
fn is_name(text: &str) -> bool {
    !text.contains('/') && !text.starts_with('{')
}

/// Returns the path of a folder such that only its last component can be a link, which another
/// program may have made.
fn physical(folder: &Path) -> PathBuf {
    let above = folder.parent().and_then(|above| above.canonicalize().ok());
    let name = folder.file_name().unwrap_or_default();
    above.map_or_else(|| folder.to_owned(), |above| above.join(name))
}

/// Returns the folder with the folders `{state}` of all plugins, if there can be one.
fn state_dir(host: &ConfinementPolicy) -> Option<PathBuf> {
    let all = host.state_dir.clone().or_else(|| {
        let absolute = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let xdg = absolute("XDG_STATE_HOME");
        let own = xdg.or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        own.map(|state| state.join("hotbay"))
    });
    std::path::absolute(all?).ok()
}
