//! What a program may do: the sandbox of its manifest, bounded by the host's configuration, with the
//! paths of this machine. Enforces nothing itself.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use hotbay_manifest::{NetRule, Sandbox, SandboxRule, SocketType};
use hotbay_process::{Program, STATE_DIR};
use hotbay_sandbox::{Confinement, Kernel, Policy, RuleStatus};

use super::candidate::Candidate;
use crate::config::ConfinementPolicy;
use crate::error::{Error, ErrorKind, LoadStep};

/// Confines a program as its manifest and the host say. Returns what was not granted, one
/// sentence each.
pub(super) fn confine(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    program: &mut Program,
) -> Result<Vec<String>, Error> {
    let manifest = &candidate.manifest;
    let own_bounds = candidate.settings.sandbox_of(manifest.name());
    let mut notes = Vec::new();
    let sandbox = match (manifest.sandbox(), own_bounds.or(host.bounds.as_ref())) {
        (Some(requested), Some(bounds)) => bounded(requested, bounds, &mut notes),
        (Some(requested), None) => requested.clone(),
        (None, _) => match own_bounds {
            Some(own) => own.clone(),
            None if host.required => return Err(unconfined(candidate)),
            None => return Ok(notes),
        },
    };
    let mut places = Places { candidate, host, program, uses_state: false };
    let read = places.paths(&sandbox.read)?;
    let write = places.paths(&sandbox.write)?;
    let run = places.programs(&sandbox.run, &mut notes)?;
    let Places { uses_state, .. } = places;
    let mut policy = Policy {
        read,
        write,
        run,
        connect: sandbox.connect.clone().unwrap_or_default(),
        listen: sandbox.listen.clone().unwrap_or_default(),
        limits: sandbox.limits,
        require: sandbox.require.clone(),
    };
    if manifest.socket_type() == SocketType::Tcp {
        policy.listen.push(NetRule::tcp(0));
    }
    let path = policy.add_preset(sandbox.preset.unwrap_or_default(), &path_of(program));
    for (name, value) in &mut program.environment {
        if name == "PATH" {
            *value = path.clone().into();
        }
    }
    add_program(&mut policy, program);
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
    check_required(candidate, host, &policy, Kernel::current())?;
    program.sandbox = Some(policy);
    Ok(notes)
}

fn unconfined(candidate: &Candidate) -> Error {
    let failed = candidate.failed(LoadStep::Confine, ErrorKind::PermissionDenied);
    let message = "it has no sandbox, but this host requires one";
    let name = candidate.manifest.name();
    failed.caused_by(message).with_hint(format!(
        "add `sandbox` to its plugin.json, or `[plugins.{name}.sandbox]` to hotbay.toml"
    ))
}

/// Fails if a rule that is required is not enforced by `kernel`.
fn check_required(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    policy: &Policy,
    kernel: Kernel,
) -> Result<(), Error> {
    let confinement = Confinement::new(policy, kernel);
    let is_missing = |rule: SandboxRule, status: &RuleStatus| match status {
        RuleStatus::Unavailable(_) => host.required || policy.require.contains(&rule),
        _ => policy.require.contains(&rule),
    };
    let missing = confinement.incomplete().filter(|rule| is_missing(rule.rule, &rule.status));
    let missing: Vec<_> = missing.map(ToString::to_string).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let failed = candidate.failed(LoadStep::Confine, ErrorKind::Unsupported);
    let message = format!("this machine cannot confine it as required: {}", missing.join("; "));
    Err(failed.caused_by(message).with_hint(
        "run the host on a newer kernel (`hotbay doctor` prints what this one can enforce), \
         confine the host by a container or a virtual machine, or no longer require the rule",
    ))
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

    fn programs(
        &mut self,
        texts: &Option<Vec<String>>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<PathBuf>, Error> {
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
                None => {
                    notes.push(format!("`sandbox.run` lists `{text}`, which was not found in PATH"))
                }
            }
        }
        Ok(programs)
    }
}

/// Adds the program itself and its folder.
fn add_program(policy: &mut Policy, program: &Program) {
    let copy = program.copy.path();
    policy.read.push(program.folder.clone());
    policy.read.extend(program.folder.canonicalize());
    policy.read.push(program.copy.folder());
    policy.run.push(copy);
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

/// Returns what both permit.
fn bounded(requested: &Sandbox, bounds: &Sandbox, notes: &mut Vec<String>) -> Sandbox {
    let mut texts = |field: &str, requested: &Option<Vec<String>>, bounds: &Option<Vec<String>>| {
        let Some(bounds) = bounds else { return requested.clone() };
        let mut kept = Vec::new();
        for text in requested.iter().flatten() {
            let narrower: Vec<_> = narrower(field, text, bounds).collect();
            if narrower.is_empty() {
                notes.push(not_granted(field, text));
            }
            kept.extend(narrower);
        }
        Some(kept)
    };
    let [read, write, run, env] = [
        texts("read", &requested.read, &bounds.read),
        texts("write", &requested.write, &bounds.write),
        texts("run", &requested.run, &bounds.run),
        texts("env", &requested.env, &bounds.env),
    ];
    let mut ports =
        |field: &str, requested: &Option<Vec<NetRule>>, bounds: &Option<Vec<NetRule>>| {
            let Some(bounds) = bounds else { return requested.clone() };
            let mut kept = Vec::new();
            for port in requested.iter().flatten() {
                if bounds.iter().any(|bound| bound.includes(port)) {
                    kept.push(*port);
                } else if let Some(bound) = bounds.iter().find(|bound| port.includes(bound)) {
                    kept.push(*bound);
                } else {
                    notes.push(not_granted(field, &port.to_string()));
                }
            }
            Some(kept)
        };
    let connect = ports("net.connect", &requested.connect, &bounds.connect);
    let listen = ports("net.listen", &requested.listen, &bounds.listen);
    let require: BTreeSet<_> = requested.require.union(&bounds.require).copied().collect();
    Sandbox::default()
        .with_preset(requested.preset.or(bounds.preset))
        .with_read(read)
        .with_write(write)
        .with_run(run)
        .with_connect(connect)
        .with_listen(listen)
        .with_env(env)
        .with_limits(requested.limits.min(&bounds.limits))
        .with_require(require)
}

fn not_granted(field: &str, text: &str) -> String {
    format!("`sandbox.{field}` lists `{text}`, which the host does not grant")
}

/// Returns what `text` and the bounds have in common: one of them, if one is below the other.
fn narrower<'b>(
    field: &str,
    text: &'b str,
    bounds: &'b [String],
) -> impl Iterator<Item = String> + use<'b> {
    let is_path = field != "env" && text.contains(['/', '{']);
    let is_private = is_path && text.starts_with('{');
    let own = is_private.then(|| text.to_owned());
    let common = bounds.iter().filter_map(move |bound| {
        let (path, bound_path) = (Path::new(text), Path::new(bound));
        match () {
            () if is_private => None,
            () if text == bound || (is_path && path.starts_with(bound_path)) => {
                Some(text.to_owned())
            }
            () if is_path && bound_path.starts_with(path) => Some(bound.clone()),
            () => None,
        }
    });
    own.into_iter().chain(common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(section: &str) -> Sandbox {
        let text = format!(
            r#"{{ "name": "a", "version": "1.0.0", "api": "^1", "kind": "process",
                "command": ["serve"], "sandbox": {section} }}"#
        );
        let manifest = hotbay_manifest::Manifest::parse(&text, Path::new("")).expect("valid");
        manifest.sandbox().cloned().expect("the section")
    }

    #[track_caller]
    fn check(requested: &str, bounds: &str, expect: &str, expect_notes: &[&str]) {
        let mut notes = Vec::new();
        assert_eq!(bounded(&sandbox(requested), &sandbox(bounds), &mut notes), sandbox(expect));
        assert_eq!(notes.len(), expect_notes.len(), "{notes:?}");
        for (note, expect) in notes.iter().zip(expect_notes) {
            assert!(note.contains(expect), "{note}");
        }
    }

    #[test]
    fn bounds_narrow_what_is_requested() {
        check(r#"{ "read": ["/a/b"] }"#, r#"{}"#, r#"{ "read": ["/a/b"] }"#, &[]);
        check(r#"{ "read": ["/a/b"] }"#, r#"{ "read": ["/a"] }"#, r#"{ "read": ["/a/b"] }"#, &[]);
        check(r#"{ "read": ["/a"] }"#, r#"{ "read": ["/a/b"] }"#, r#"{ "read": ["/a/b"] }"#, &[]);
        check(r#"{ "read": ["/ab"] }"#, r#"{ "read": ["/a"] }"#, r#"{ "read": [] }"#, &["/ab"]);
        check(
            r#"{ "write": ["{state}", "/b"] }"#,
            r#"{ "write": [] }"#,
            r#"{ "write": ["{state}"] }"#,
            &["`sandbox.write` lists `/b`, which the host does not grant"],
        );
        check(r#"{ "run": ["git"] }"#, r#"{ "run": ["git", "ls"] }"#, r#"{ "run": ["git"] }"#, &[]);
        check(r#"{ "env": ["A"] }"#, r#"{ "env": ["AB"] }"#, r#"{ "env": [] }"#, &["A"]);
        check(
            r#"{ "net": { "connect": [443, 80, "udp:53"] } }"#,
            r#"{ "net": { "connect": ["127.0.0.1:443", "udp:53"] } }"#,
            r#"{ "net": { "connect": ["127.0.0.1:443", "udp:53"] } }"#,
            &["80"],
        );
        check(
            r#"{ "limits": { "processes": 4, "cpu": 0.5 }, "require": ["read"] }"#,
            r#"{ "limits": { "processes": 2, "open_files": 8 }, "require": ["net"] }"#,
            r#"{ "limits": { "processes": 2, "cpu": 0.5, "open_files": 8 },
                "require": ["read", "net"] }"#,
            &[],
        );
    }
}
