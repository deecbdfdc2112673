//! Confines a program: its sandbox with the paths of this machine, and its environment. Refuses what
//! this machine cannot enforce, if it is required.

use std::ffi::{OsStr, OsString};

use hotbay_process::{Program, STATE_DIR, allowed};
use hotbay_sandbox::{Delegated, GrantedPath};

use super::bounds::{check, granted_variables, policy_of};
use super::candidate::Candidate;
use super::sandbox_paths::{Paths, Purpose, Resolved, SandboxHost};
use crate::error::Error;

/// Confines a program as its manifest and the host require, and sets its environment.
pub(super) fn confine(
    candidate: &Candidate,
    host: SandboxHost<'_>,
    program: &mut Program,
) -> Result<(), Error> {
    let granted = granted_variables(candidate, host.policy);
    let names = [host.environment, &granted].concat();
    program.environment = allowed(std::env::vars_os(), &names);
    let cgroup = host.policy.cgroup.clone().map(Delegated::enable);
    let Some(sandbox) = check(candidate, host.policy, cgroup.clone())? else {
        return Ok(());
    };
    let search_path = path_of(program);
    let paths = Paths::new(candidate, &program.folder, host, Purpose::Start);
    let policy = policy_of(&candidate.manifest, &sandbox, cgroup);
    let Resolved { mut policy, programs, state } = paths.resolve(&sandbox, policy)?;
    for name in policy.add_programs(&programs, &search_path) {
        let plugin = candidate.manifest.name();
        tracing::warn!(
            %plugin,
            "`sandbox.run` lists `{name}`, which was not found in PATH, or only in folders that \
             programs can change"
        );
    }
    let path = policy.add_preset(sandbox.preset.unwrap_or_default(), &search_path);
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
