//! Confines a program: its sandbox with the paths of this machine, and its environment. Refuses what
//! this machine cannot enforce, if it is required.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use hotbay_process::{Program, STATE_DIR};
use hotbay_sandbox::{Delegated, Policy};

use super::bounds::{add_listen, check, effective};
use super::candidate::Candidate;
use crate::config::ConfinementPolicy;
use crate::error::{Error, ErrorKind, LoadStep};

/// Confines a program as its manifest and the host say.
pub(super) fn confine(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    program: &mut Program,
) -> Result<(), Error> {
    let manifest = &candidate.manifest;
    let (sandbox, _) = effective(manifest, &candidate.settings, host);
    let cgroup = host.cgroup.clone().map(Delegated::enable);
    check(candidate, host, cgroup.clone())?;
    let Some(sandbox) = sandbox else { return Ok(()) };
    let mut places = Places { candidate, host, program, uses_state: false };
    let read = places.paths(&sandbox.read)?;
    let write = places.paths(&sandbox.write)?;
    let run = places.programs(&sandbox.run)?;
    let Places { uses_state, .. } = places;
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
    policy.read.push(program.folder.clone());
    policy.read.extend(program.folder.canonicalize());
    let allowed = sandbox.env.clone().unwrap_or_default();
    program.environment.retain(|(name, _)| is_usual(name) || is_listed(name, &allowed));
    if uses_state {
        let state = state_dir(candidate, host)?;
        create(&state).map_err(|error| {
            let message = format!("cannot create `{}`: {error}", state.display());
            candidate.failed(LoadStep::Confine, ErrorKind::StartFailed).caused_by(message)
        })?;
        program.environment.push((STATE_DIR.into(), state.into()));
    }
    program.sandbox = Some(policy);
    Ok(())
}

/// Resolves the paths of a sandbox.
struct Places<'p> {
    candidate: &'p Candidate,
    host: &'p ConfinementPolicy,
    program: &'p Program,
    uses_state: bool,
}

impl Places<'_> {
    fn paths(&mut self, texts: &Option<Vec<String>>) -> Result<Vec<PathBuf>, Error> {
        texts.iter().flatten().map(|text| self.path(text)).collect()
    }

    fn path(&mut self, text: &str) -> Result<PathBuf, Error> {
        let below = |folder: &Path, rest: &str| folder.join(rest.trim_start_matches('/'));
        if let Some(rest) = text.strip_prefix("{plugin}") {
            return Ok(below(&self.program.folder, rest));
        }
        if let Some(rest) = text.strip_prefix("{state}") {
            self.uses_state = true;
            return Ok(below(&state_dir(self.candidate, self.host)?, rest));
        }
        Ok(text.into())
    }

    fn programs(&mut self, texts: &Option<Vec<String>>) -> Result<Vec<PathBuf>, Error> {
        let search = path_of(self.program);
        let mut programs = Vec::new();
        for text in texts.iter().flatten() {
            if text.contains('/') {
                programs.push(self.path(text)?);
                continue;
            }
            match Policy::find_program(text, &search) {
                // A link and its target are different files for the kernel.
                Some(found) => {
                    programs.extend(found.canonicalize().ok().into_iter().chain([found]))
                }
                None => tracing::warn!(
                    plugin = %self.candidate.manifest.name(),
                    "`sandbox.run` lists `{text}`, which was not found in PATH"
                ),
            }
        }
        Ok(programs)
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
