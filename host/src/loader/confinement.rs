//! Confines a program: its sandbox with the paths of this machine, and its environment. Refuses what
//! this machine cannot enforce, if it is required.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use hotbay_manifest::Sandbox;
use hotbay_process::{Program, STATE_DIR};
use hotbay_sandbox::{Delegated, GrantedPath, Policy};

use super::bounds::{add_listen, bounds_of, check, effective};
use super::candidate::Candidate;
use crate::artifact::discover::MANIFEST;
use crate::artifact::trust::{self, Trust};
use crate::config::ConfinementPolicy;
use crate::error::{Error, ErrorKind, LoadStep};

/// Confines a program as its manifest and the host require.
pub(super) fn confine(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    trust: Trust,
    program: &mut Program,
) -> Result<(), Error> {
    let manifest = &candidate.manifest;
    let (sandbox, _) = effective(manifest, &candidate.settings, host);
    let cgroup = host.cgroup.clone().map(Delegated::enable);
    check(candidate, host, cgroup.clone())?;
    let Some(sandbox) = sandbox else { return Ok(()) };
    let none = Sandbox::default();
    let bounds = bounds_of(manifest, &candidate.settings, host).unwrap_or(&none);
    let writable = bounds.write.iter().flatten();
    let writable = writable.filter_map(|bound| Path::new(bound).canonicalize().ok()).collect();
    let mut paths = Paths { candidate, host, trust, program, writable, state: None };
    let read = paths.of("read", &sandbox.read, &bounds.read)?;
    let write = paths.of("write", &sandbox.write, &bounds.write)?;
    let run = paths.of("run", &sandbox.run, &bounds.run)?;
    let Paths { state, .. } = paths;
    write.iter().try_for_each(|granted| check_writable(candidate, granted, program))?;
    let mut policy = Policy {
        read,
        write,
        run,
        connect: sandbox.connect.clone().unwrap_or_default(),
        listen: sandbox.listen.clone().unwrap_or_default(),
        namespaces: sandbox.namespaces,
        limits: sandbox.limits,
        cgroup,
        ..Policy::default()
    };
    add_listen(&mut policy, manifest);
    let path = policy.add_preset(sandbox.preset.unwrap_or_default(), &path_of(program));
    for (name, value) in &mut program.environment {
        if name == "PATH" {
            *value = path.clone().into();
        }
    }
    policy.read.push(program.folder.clone().into());
    policy.read.extend(program.folder.canonicalize().ok().map(GrantedPath::from));
    let allowed = sandbox.env.clone().unwrap_or_default();
    program.environment.retain(|(name, _)| is_usual(name) || is_listed(name, &allowed));
    if let Some(state) = state {
        program.environment.push((STATE_DIR.into(), state.into()));
    }
    program.sandbox = Some(policy);
    Ok(())
}

/// Fails if the program could change its own manifest, and so what it is granted.
fn check_writable(
    candidate: &Candidate,
    granted: &GrantedPath,
    program: &Program,
) -> Result<(), Error> {
    let manifest = program.folder.join(MANIFEST);
    let resolved = [granted.path.as_path(), &program.folder, &manifest].map(Path::canonicalize);
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
    let failed = candidate.failed(LoadStep::Confine, ErrorKind::PermissionDenied);
    let hint = "list `{state}`, or a folder such as `{plugin}/data`, instead";
    Err(failed.caused_by(message).with_hint(hint))
}

/// Creates the folder `{state}`. Fails if other users can replace it, or if it is a link.
fn create_state(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    trust: Trust,
) -> Result<PathBuf, Error> {
    let state = state_dir(candidate, host)?;
    let failed = |kind| candidate.failed(LoadStep::Confine, kind);
    create(&state).map_err(|error| {
        let message = format!("cannot create `{}`: {error}", state.display());
        failed(ErrorKind::StartFailed).caused_by(message)
    })?;
    if !std::fs::symlink_metadata(&state).is_ok_and(|metadata| metadata.is_dir()) {
        let message = format!("its folder `{{state}}`, `{}`, is not a folder", state.display());
        let hint = "remove the link, or set `state_dir` in `[sandbox]` of hotbay.toml";
        return Err(failed(ErrorKind::Integrity).caused_by(message).with_hint(hint));
    }
    let checked = trust::check(&state, trust).and_then(|()| trust::check_above(&state, trust));
    checked.map_err(|error| failed(ErrorKind::Integrity).caused_by(error))?;
    Ok(state)
}

/// Resolves the paths of a sandbox.
struct Paths<'p> {
    candidate: &'p Candidate,
    host: &'p ConfinementPolicy,
    trust: Trust,
    program: &'p Program,
    /// The folders that the host lets programs change.
    writable: Vec<PathBuf>,
    /// The folder `{state}`, once a path has it.
    state: Option<PathBuf>,
}

impl Paths<'_> {
    /// Resolves the paths in the list of one field. `bounds` is the host's list.
    fn of(
        &mut self,
        field: &str,
        texts: &Option<Vec<String>>,
        bounds: &Option<Vec<String>>,
    ) -> Result<Vec<GrantedPath>, Error> {
        let mut paths = Vec::new();
        for text in texts.iter().flatten() {
            if field == "run" && !text.contains('/') && !text.starts_with('{') {
                self.add_named_program(text, &mut paths);
                continue;
            }
            let granted = self.path(text, bounds.as_deref().unwrap_or_default())?;
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
            let folder = &self.program.folder;
            return Ok(match folder.canonicalize() {
                Ok(real) => {
                    GrantedPath::beneath(folder.join(rest.trim_start_matches('/')), vec![real])
                }
                Err(_) => below(folder, rest),
            });
        }
        if let Some(rest) = text.strip_prefix("{state}") {
            if self.state.is_none() {
                self.state = Some(create_state(self.candidate, self.host, self.trust)?);
            }
            return Ok(below(self.state.as_deref().unwrap_or(Path::new("/")), rest));
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
        match Policy::find_program(name, &path_of(self.program)) {
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
}

fn path_of(program: &Program) -> String {
    let path = program.environment.iter().find(|(name, _)| name == "PATH");
    path.map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns whether a variable is passed to every confined program.
fn is_usual(name: &OsStr) -> bool {
    name == "PATH" || name == "LANG" || name.as_encoded_bytes().starts_with(b"LC_")
}

fn is_listed(name: &OsString, allowed: &[String]) -> bool {
    allowed.iter().any(|allowed| name == allowed.as_str())
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
fn create(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
