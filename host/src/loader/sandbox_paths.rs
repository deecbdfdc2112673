//! Resolves the paths that a sandbox lists. Refuses those by which the program could change what it
//! is granted.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use hotbay_manifest::Sandbox;
use hotbay_sandbox::{GrantedPath, Policy};

use super::bounds::{bounds_of, effective};
use super::candidate::Candidate;
use crate::artifact::discover::MANIFEST;
use crate::artifact::trust::{self, Trust};
use crate::config::ConfinementPolicy;
use crate::error::{Error, ErrorKind, LoadStep};

/// What the paths of a sandbox lead to.
#[derive(Default)]
pub(super) struct SandboxPaths {
    pub(super) read: Vec<GrantedPath>,
    pub(super) write: Vec<GrantedPath>,
    pub(super) run: Vec<GrantedPath>,
    /// The folder `{state}`, if a path has it.
    pub(super) state: Option<PathBuf>,
}

/// Checks the paths of a program that is not started. Only reads the disk.
pub(super) fn check_paths(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    trust: Trust,
) -> Result<(), Error> {
    let (sandbox, _) = effective(&candidate.manifest, &candidate.settings, host);
    let (Some(sandbox), Some(folder)) = (sandbox, &candidate.folder) else { return Ok(()) };
    Paths::new(candidate, folder, host, trust, None).resolve(&sandbox).map(drop)
}

/// Resolves the paths of one sandbox.
pub(super) struct Paths<'p> {
    candidate: &'p Candidate,
    folder: &'p Path,
    host: &'p ConfinementPolicy,
    trust: Trust,
    /// Where programs are searched; `None` if the program is not started, so that nothing is created.
    search_path: Option<&'p str>,
    bounds: Option<&'p Sandbox>,
    /// The folders that the host lets programs change.
    writable: Vec<PathBuf>,
    /// The folder `{state}`, once a path has it.
    state: Option<PathBuf>,
}

impl<'p> Paths<'p> {
    /// Prepares to resolve the paths of the program in `folder`.
    pub(super) fn new(
        candidate: &'p Candidate,
        folder: &'p Path,
        host: &'p ConfinementPolicy,
        trust: Trust,
        search_path: Option<&'p str>,
    ) -> Self {
        let bounds = bounds_of(&candidate.manifest, &candidate.settings, host);
        let writable = bounds.and_then(|bounds| bounds.write.as_ref()).into_iter().flatten();
        let writable = writable.filter_map(|bound| Path::new(bound).canonicalize().ok()).collect();
        Self { candidate, folder, host, trust, search_path, bounds, writable, state: None }
    }

    /// Resolves the paths of a sandbox that the bounds of the host permit.
    pub(super) fn resolve(mut self, sandbox: &Sandbox) -> Result<SandboxPaths, Error> {
        let of = |list: fn(&Sandbox) -> &Option<Vec<String>>| {
            self.bounds.and_then(|bounds| list(bounds).as_deref()).unwrap_or_default()
        };
        let [read, write, run] = [of(|it| &it.read), of(|it| &it.write), of(|it| &it.run)];
        let read = self.list("read", &sandbox.read, read)?;
        let write = self.list("write", &sandbox.write, write)?;
        let run = self.list("run", &sandbox.run, run)?;
        write.iter().try_for_each(|granted| self.check_writable(granted))?;
        Ok(SandboxPaths { read, write, run, state: self.state })
    }

    /// Resolves the paths in the list of one field. `bounds` is the host's list.
    fn list(
        &mut self,
        field: &str,
        texts: &Option<Vec<String>>,
        bounds: &[String],
    ) -> Result<Vec<GrantedPath>, Error> {
        let mut paths = Vec::new();
        for text in texts.iter().flatten() {
            if field == "run" && !text.contains('/') && !text.starts_with('{') {
                self.add_named_program(text, &mut paths);
                continue;
            }
            let granted = self.path(text, bounds)?;
            if let Some(target) = granted.leads_out() {
                return Err(self.leads_out(field, text, &granted, &target));
            }
            paths.push(granted);
        }
        Ok(paths)
    }

    /// Below a folder that the host grants, or that belongs to the plugin, links must not lead out of
    /// that folder: a program could have made them.
    fn path(&mut self, text: &str, bounds: &[String]) -> Result<GrantedPath, Error> {
        let below = |folder: &Path, rest: &str| {
            let path = folder.join(rest.trim_start_matches('/'));
            // Another program may be able to replace the folder, so its own links count, too.
            let name = folder.file_name().unwrap_or_default();
            let real = folder.parent().and_then(|above| above.canonicalize().ok());
            GrantedPath::beneath(path, real.map(|above| above.join(name)).into_iter().collect())
        };
        if let Some(rest) = text.strip_prefix("{plugin}") {
            let folder = self.folder;
            return Ok(match folder.canonicalize() {
                Ok(real) => {
                    GrantedPath::beneath(folder.join(rest.trim_start_matches('/')), vec![real])
                }
                Err(_) => below(folder, rest),
            });
        }
        if let Some(rest) = text.strip_prefix("{state}") {
            let state = match self.state.take() {
                Some(state) => state,
                None => self.state_folder()?,
            };
            return Ok(below(self.state.insert(state), rest));
        }
        let path = PathBuf::from(text);
        let is_bound = bounds.iter().any(|bound| Path::new(bound) == path);
        let is_above = |bound: &String| path.starts_with(bound);
        // What the host lists itself may lead anywhere, unless a program can change that.
        Ok(match (is_bound, bounds.iter().any(is_above)) {
            (true, _) if GrantedPath::target_of(&path, &self.writable).is_some() => path.into(),
            (true, _) => GrantedPath::beneath(path, self.writable.clone()),
            (false, true) => {
                let target = |bound| GrantedPath::target_of(Path::new(bound), &self.writable);
                GrantedPath::beneath(path, bounds.iter().filter_map(target).collect())
            }
            (false, false) => path.into(),
        })
    }

    #[cold]
    fn leads_out(&self, field: &str, text: &str, granted: &GrantedPath, target: &Path) -> Error {
        let folders =
            granted.beneath.iter().flatten().map(|folder| format!("`{}`", folder.display()));
        let folders = folders.collect::<Vec<_>>().join(" and ");
        let message = format!(
            "`sandbox.{field}` lists `{text}`, which leads to `{}`, outside of {folders}",
            target.display()
        );
        let failed = self.candidate.failed(LoadStep::Confine, ErrorKind::PermissionDenied);
        failed.caused_by(message).with_hint("list the target itself, and let the host grant it")
    }

    fn add_named_program(&self, name: &str, paths: &mut Vec<GrantedPath>) {
        let Some(search_path) = self.search_path else { return };
        match Policy::find_program(name, search_path) {
            // A link and its target are different files for the kernel.
            Some(found) => {
                let target = found.canonicalize().ok();
                paths.extend(target.into_iter().chain([found]).map(GrantedPath::from));
            }
            None => tracing::warn!(
                plugin = %self.candidate.manifest.name(),
                "`sandbox.run` lists `{name}`, which was not found in PATH"
            ),
        }
    }

    /// Fails if the program could change its own manifest, and so what it is granted.
    fn check_writable(&self, granted: &GrantedPath) -> Result<(), Error> {
        let manifest = self.folder.join(MANIFEST);
        let resolved = [granted.path.as_path(), self.folder, &manifest].map(Path::canonicalize);
        let [Ok(writable), Ok(folder), Ok(file)] = resolved else { return Ok(()) };
        let has_other_names = std::fs::metadata(&file).is_ok_and(|file| file.nlink() > 1);
        let reason = match () {
            () if folder.starts_with(&writable) || file.starts_with(&writable) => {
                "contains its plugin.json"
            }
            // One of them may be below it.
            () if has_other_names && writable.starts_with(&folder) => {
                "is beside its plugin.json, which has hard links"
            }
            () => return Ok(()),
        };
        let message = format!(
            "`sandbox.write` lists `{}`, which {reason}: the program could change what it is granted",
            granted.path.display()
        );
        let failed = self.candidate.failed(LoadStep::Confine, ErrorKind::PermissionDenied);
        let hint = "list `{state}`, or a folder such as `{plugin}/data`, instead";
        Err(failed.caused_by(message).with_hint(hint))
    }

    /// Returns the folder `{state}`, which a start creates. Fails if other users can replace it, or if
    /// it is a link.
    fn state_folder(&self) -> Result<PathBuf, Error> {
        let state = state_dir(self.candidate, self.host)?;
        let failed = |kind| self.candidate.failed(LoadStep::Confine, kind);
        if self.search_path.is_some() {
            create(&state).map_err(|error| {
                let message = format!("cannot create `{}`: {error}", state.display());
                failed(ErrorKind::StartFailed).caused_by(message)
            })?;
        }
        match std::fs::symlink_metadata(&state) {
            Ok(metadata) if metadata.is_dir() => {}
            // A start will create it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.search_path.is_none() => {
                return Ok(state);
            }
            _ => {
                let message =
                    format!("its folder `{{state}}`, `{}`, is not a folder", state.display());
                let hint = "remove the link, or set `state_dir` in `[sandbox]` of hotbay.toml";
                return Err(failed(ErrorKind::Integrity).caused_by(message).with_hint(hint));
            }
        }
        let checked =
            trust::check(&state, self.trust).and_then(|()| trust::check_above(&state, self.trust));
        checked.map_err(|error| failed(ErrorKind::Integrity).caused_by(error))?;
        Ok(state)
    }
}

fn state_dir(candidate: &Candidate, host: &ConfinementPolicy) -> Result<PathBuf, Error> {
    let name = candidate.manifest.name();
    let all = host.state_dir.clone().or_else(|| {
        let absolute = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let xdg = absolute("XDG_STATE_HOME");
        let own = xdg.or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        own.map(|state| state.join("hotbay"))
    });
    let all = all.and_then(|all| std::path::absolute(all).ok()).ok_or_else(|| {
        let failed = candidate.failed(LoadStep::Confine, ErrorKind::Config);
        let message = "no folder for `{state}`: neither XDG_STATE_HOME nor HOME is set";
        failed.caused_by(message).with_hint("set `state_dir` in `[sandbox]` of hotbay.toml")
    })?;
    Ok(all.join(name.as_str()))
}

/// Creates a folder that only this user can access.
fn create(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
