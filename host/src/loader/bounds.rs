//! What a plugin's process may do: the sandbox of its manifest, bounded by the host's configuration.
//! Resolves no paths, but reports those that do not exist.

use std::collections::BTreeSet;
use std::path::Path;

use hotbay_manifest::{Manifest, NetRule, Sandbox, SandboxRule, SocketType};
use hotbay_sandbox::{Confinement, Delegated, Kernel, Policy, RuleReport, RuleStatus};

use super::candidate::Candidate;
use super::settings::PluginSettings;
use crate::config::ConfinementPolicy;
use crate::error::{Error, ErrorKind, LoadStep};

/// Returns the sandbox of a plugin, if it has one, and what the host does not grant of it, one
/// sentence each.
pub(super) fn effective(
    manifest: &Manifest,
    settings: &PluginSettings,
    host: &ConfinementPolicy,
) -> (Option<Sandbox>, Vec<String>) {
    let mut notes = Vec::new();
    let own = settings.sandbox_of(manifest.name());
    let bounds = bounds_of(manifest, settings, host);
    let sandbox = match (manifest.sandbox(), bounds) {
        (Some(requested), Some(bounds)) => Some(bounded(requested, bounds, &mut notes)),
        (Some(requested), None) => Some(requested.clone()),
        (None, _) => own.cloned(),
    };
    // A program must not run without what is required, so that is requested, too.
    let has_namespaces = |sandbox: &Sandbox| {
        let is_required = sandbox.require.contains(&SandboxRule::Namespaces);
        sandbox.namespaces || host.namespaces || is_required
    };
    let sandbox = sandbox.map(|sandbox| {
        let namespaces = has_namespaces(&sandbox);
        sandbox.with_namespaces(namespaces)
    });
    (sandbox, notes)
}

/// Returns the bounds of a plugin's sandbox, if the host sets any.
pub(super) fn bounds_of<'s>(
    manifest: &Manifest,
    settings: &'s PluginSettings,
    host: &'s ConfinementPolicy,
) -> Option<&'s Sandbox> {
    let own = settings.sandbox_of(manifest.name());
    own.or(settings.sandbox.as_ref()).or(host.bounds.as_ref())
}

/// Returns what the host does not grant of a plugin's sandbox, one sentence each. `inherited` are the
/// variables that all programs inherit.
pub(super) fn not_granted(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    inherited: &[String],
) -> Vec<String> {
    let (sandbox, mut notes) = effective(&candidate.manifest, &candidate.settings, host);
    let listed = granted_variables(candidate, host);
    notes.extend(sandbox.iter().flat_map(|sandbox| missing(candidate, sandbox)));
    let names = sandbox.and_then(|sandbox| sandbox.env).unwrap_or_default();
    notes.extend(names.iter().filter(|name| !is_passed(name, inherited, &listed)).map(|name| {
        format!(
            "`sandbox.env` lists `{name}`, which the host does not pass on; it does if `environment` \
             or `[sandbox] env` of hotbay.toml lists it"
        )
    }));
    notes
}

/// Returns the variables that the bounds of the host grant to a program.
pub(super) fn granted_variables(candidate: &Candidate, host: &ConfinementPolicy) -> Vec<String> {
    let bounds = bounds_of(&candidate.manifest, &candidate.settings, host);
    let (sandbox, _) = effective(&candidate.manifest, &candidate.settings, host);
    match (bounds.and_then(|bounds| bounds.env.as_ref()), sandbox) {
        (Some(listed), Some(sandbox)) => {
            let names = sandbox.env.unwrap_or_default();
            names.into_iter().filter(|name| listed.contains(name)).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns a note for each path that does not exist, and each program that is not in `PATH`. Those in
/// private folders may be created later.
fn missing(candidate: &Candidate, sandbox: &Sandbox) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_absent = |path: &Path| path.try_exists().is_ok_and(|exists| !exists);
    let reason = |field: &str, text: &str| {
        let is_name = field == "run" && !text.contains(['/', '{']);
        let is_missing = match text.strip_prefix("{plugin}") {
            _ if is_name => !std::env::split_paths(&path).any(|folder| folder.join(text).is_file()),
            Some(rest) => {
                let folder = candidate.folder.as_deref().unwrap_or(Path::new(""));
                is_absent(&folder.join(rest.trim_start_matches('/')))
            }
            None => !text.starts_with('{') && is_absent(Path::new(text)),
        };
        let reason = if is_name { "was not found in PATH" } else { "does not exist" };
        is_missing.then_some(reason)
    };
    let lists = [("read", &sandbox.read), ("write", &sandbox.write), ("run", &sandbox.run)];
    let all = lists
        .into_iter()
        .flat_map(|(field, list)| list.iter().flatten().map(move |text| (field, text.as_str())));
    let note = |(field, text)| {
        Some(format!("`sandbox.{field}` lists `{text}`, which {}", reason(field, text)?))
    };
    all.filter_map(note).collect()
}

#[cfg(all(unix, feature = "process"))]
fn is_passed(name: &str, inherited: &[String], listed: &[String]) -> bool {
    let name = std::ffi::OsStr::new(name);
    hotbay_process::is_allowed(name, inherited) || hotbay_process::is_allowed(name, listed)
}

#[cfg(not(all(unix, feature = "process")))]
fn is_passed(_: &str, _: &[String], _: &[String]) -> bool {
    true
}

/// Returns what this machine enforces of a sandbox, with this folder of control groups.
pub(super) fn confinement_of(
    manifest: &Manifest,
    sandbox: &Sandbox,
    cgroup: Option<Delegated>,
) -> Confinement {
    let policy = policy_of(manifest, sandbox, cgroup);
    Confinement::new(&policy, Kernel::of_policy(&policy))
}

/// Returns the policy of a sandbox, without its paths.
pub(super) fn policy_of(
    manifest: &Manifest,
    sandbox: &Sandbox,
    cgroup: Option<Delegated>,
) -> Policy {
    let mut listen = sandbox.listen.clone().unwrap_or_default();
    if manifest.socket_type() == SocketType::Tcp {
        listen.push(NetRule::tcp(0));
    }
    Policy {
        connect: sandbox.connect.clone().unwrap_or_default(),
        listen,
        namespaces: sandbox.namespaces,
        limits: sandbox.limits,
        cgroup,
        ..Policy::default()
    }
}

/// Returns the sandbox of a program; `None` if it has none.
///
/// # Errors
///
/// Fails if the host or the program requires what is not enforced.
pub(super) fn check(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    cgroup: Option<Delegated>,
) -> Result<Option<Sandbox>, Error> {
    let (sandbox, _) = effective(&candidate.manifest, &candidate.settings, host);
    let Some(sandbox) = sandbox else {
        return if host.required { Err(unconfined(candidate)) } else { Ok(None) };
    };
    let confinement = confinement_of(&candidate.manifest, &sandbox, cgroup);
    check_required(candidate, host, &sandbox, &confinement)?;
    Ok(Some(sandbox))
}

/// Fails if this host runs no processes.
#[cfg(all(unix, feature = "process"))]
pub(super) fn check_processes(_: &Candidate) -> Result<(), Error> {
    Ok(())
}

#[cfg(not(all(unix, feature = "process")))]
pub(super) fn check_processes(candidate: &Candidate) -> Result<(), Error> {
    Err(no_processes(candidate))
}

#[cfg(not(all(unix, feature = "process")))]
pub(super) fn no_processes(candidate: &Candidate) -> Error {
    let failed = candidate.failed(LoadStep::Manifest, ErrorKind::Unsupported);
    failed.caused_by(super::context::NO_PROCESSES).with_hint(super::context::NO_PROCESSES_HINT)
}

/// Refuses a library with a sandbox, since code in this process cannot be confined.
pub(super) fn refuse_sandbox(candidate: &Candidate) -> Result<(), Error> {
    let name = candidate.manifest.name();
    if candidate.manifest.sandbox().or(candidate.settings.sandbox_of(name)).is_none() {
        return Ok(());
    }
    let failed = candidate.failed(LoadStep::Confine, ErrorKind::Unsupported);
    let message = "it has a sandbox, but runs in the host's own process";
    let hint = match candidate.settings.isolation_of(name) {
        Some(_) => format!(
            "set `isolation = \"process\"` in `[plugins.{name}]` of hotbay.toml, or remove `sandbox`"
        ),
        None => format!(
            "add `\"isolation\": \"process\"` to its plugin.json, or `isolation = \"process\"` to \
             `[plugins.{name}]` of hotbay.toml, or remove `sandbox`"
        ),
    };
    Err(failed.caused_by(message).with_hint(hint))
}

fn unconfined(candidate: &Candidate) -> Error {
    let failed = candidate.failed(LoadStep::Confine, ErrorKind::PermissionDenied);
    let message = "it has no sandbox, but this host requires one";
    let name = candidate.manifest.name();
    failed.caused_by(message).with_hint(format!(
        "add `sandbox` with its `preset` to its plugin.json, or `[plugins.{name}.sandbox]` with \
         `preset` to hotbay.toml"
    ))
}

fn with_free_port(sandbox: &Sandbox) -> Sandbox {
    let listen = sandbox.listen.iter().flatten().copied().chain([NetRule::tcp(0)]);
    sandbox.clone().with_listen(Some(listen.collect()))
}

/// Fails if a rule that is required is not enforced.
fn check_required(
    candidate: &Candidate,
    host: &ConfinementPolicy,
    sandbox: &Sandbox,
    confinement: &Confinement,
) -> Result<(), Error> {
    let not_set = sandbox.require.iter().find(|rule| confinement.status(**rule).is_none());
    if let Some(rule) = not_set {
        let failed = candidate.failed(LoadStep::Confine, ErrorKind::PermissionDenied);
        let message = format!("the limit `{rule}` is required, but not set");
        let name = candidate.manifest.name();
        let section = match candidate.settings.sandbox_of(name) {
            Some(_) => format!("plugins.{name}.sandbox"),
            None => "sandbox".to_owned(),
        };
        return Err(failed.caused_by(message).with_hint(format!(
            "set `{rule}` in `limits` of its sandbox, or in `[{section}.limits]` of hotbay.toml"
        )));
    }
    let is_missing = |rule: SandboxRule, status: &RuleStatus| match status {
        RuleStatus::Unavailable(_) => host.required || sandbox.require.contains(&rule),
        _ => sandbox.require.contains(&rule),
    };
    let missing: Vec<_> =
        confinement.incomplete().filter(|rule| is_missing(rule.rule, &rule.status)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let is_partial = |rule: &&RuleReport| matches!(rule.status, RuleStatus::Partial(_));
    let hint = match missing[..] {
        [RuleReport { rule: SandboxRule::Net, status: RuleStatus::Partial(_), .. }]
            if confinement_of(&candidate.manifest, &with_free_port(sandbox), None)
                .status(SandboxRule::Net)
                .is_some_and(|status| *status == RuleStatus::Enforced) =>
        {
            "list the port 0 in `net.listen`, if it may listen on free ports, or no longer require \
             the rule"
        }
        _ if missing.iter().all(is_partial) => {
            "no longer require the rule, if it suffices that it is enforced as far as the reason \
             says; `hotbay doctor` prints what this kernel and newer ones can enforce"
        }
        [RuleReport { rule: SandboxRule::Cpu, .. }] => {
            "delegate a folder of control groups (version 2) with the controller `cpu` to the host, \
             set `cgroup` in `[sandbox]` of hotbay.toml, or remove the limit `cpu`"
        }
        [RuleReport { rule: SandboxRule::Namespaces, .. }] => {
            "let the user of the host create user namespaces (`hotbay doctor` prints whether it \
             can), or no longer require `namespaces`: the other rules are enforced without them"
        }
        _ => {
            "run the host on a newer kernel (`hotbay doctor` prints what this one can enforce), \
             confine the host by a container or a virtual machine, or no longer require the rule, \
             by `require` of its sandbox or `required` of the host"
        }
    };
    let missing: Vec<_> = missing.into_iter().map(ToString::to_string).collect();
    let failed = candidate.failed(LoadStep::Confine, ErrorKind::Unsupported);
    let message = format!("this machine cannot confine it as required: {}", missing.join("; "));
    Err(failed.caused_by(message).with_hint(hint))
}

/// Returns what both permit.
fn bounded(requested: &Sandbox, bounds: &Sandbox, notes: &mut Vec<String>) -> Sandbox {
    let mut texts = |field: &str, requested: &Option<Vec<String>>, bounds: &Option<Vec<String>>| {
        let Some(bounds) = bounds else { return requested.clone() };
        let mut kept = Vec::new();
        for text in requested.iter().flatten() {
            let narrower: Vec<_> = narrower(field, text, bounds).collect();
            if !narrower.contains(text) {
                notes.push(note(field, text, &narrower));
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
                    notes.push(note(field, &port.to_string(), &[bound.to_string()]));
                } else {
                    notes.push(note(field, &port.to_string(), &[]));
                }
            }
            Some(kept)
        };
    let connect = ports("net.connect", &requested.connect, &bounds.connect);
    let listen = ports("net.listen", &requested.listen, &bounds.listen);
    let limits = requested.limits.min(&bounds.limits);
    for ((rule, requested), (_, granted)) in
        requested.limits.entries().into_iter().zip(limits.entries())
    {
        if let (Some(requested), Some(granted)) = (requested, granted)
            && granted < requested
        {
            notes.push(limit_note(rule, requested, granted));
        }
    }
    let require: BTreeSet<_> = requested.require.union(&bounds.require).copied().collect();
    Sandbox::default()
        .with_preset(requested.preset.or(bounds.preset))
        .with_read(read)
        .with_write(write)
        .with_run(run)
        .with_connect(connect)
        .with_listen(listen)
        .with_env(env)
        .with_namespaces(requested.namespaces || bounds.namespaces)
        .with_limits(limits)
        .with_require(require)
}

fn limit_note(rule: SandboxRule, requested: u64, granted: u64) -> String {
    let [requested, granted] = [requested, granted].map(|limit| match rule {
        SandboxRule::Cpu | SandboxRule::CallCpuSeconds => (limit as f64 / 1000.0).to_string(),
        _ => limit.to_string(),
    });
    format!("`sandbox.limits.{rule}` is {requested}, of which the host grants only {granted}")
}

fn note(field: &str, text: &str, granted: &[String]) -> String {
    match granted {
        [] => format!("`sandbox.{field}` lists `{text}`, which the host does not grant"),
        _ => format!(
            "`sandbox.{field}` lists `{text}`, of which the host grants only `{}`",
            granted.join("`, `")
        ),
    }
}

/// Returns what `text` and the bounds have in common: one of them, if one is below the other.
fn narrower<'b>(
    field: &str,
    text: &'b str,
    bounds: &'b [String],
) -> impl Iterator<Item = String> + use<'b> {
    let is_path = field != "env" && text.contains(['/', '{']);
    // Its own folder can be read in any case, and its other folders changed. What it writes there is
    // executed only if the host permits it.
    let is_private = is_path
        && field != "run"
        && (text.starts_with("{state}")
            || text.starts_with("{tmp}")
            || (field == "read" && text.starts_with("{plugin}")));
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
        check(
            r#"{ "read": ["/a"] }"#,
            r#"{ "read": ["/a/b"] }"#,
            r#"{ "read": ["/a/b"] }"#,
            &["`sandbox.read` lists `/a`, of which the host grants only `/a/b`"],
        );
        check(
            r#"{ "read": ["{plugin}/a"], "run": ["{plugin}/b"], "write": ["{plugin}/c", "{tmp}"] }"#,
            r#"{ "read": [], "run": [], "write": [] }"#,
            r#"{ "read": ["{plugin}/a"], "run": [], "write": ["{tmp}"] }"#,
            &["`sandbox.write` lists `{plugin}/c`", "`sandbox.run` lists `{plugin}/b`"],
        );
        check(
            r#"{ "run": ["{tmp}", "{state}/tool"] }"#,
            r#"{ "run": ["{state}"] }"#,
            r#"{ "run": ["{state}/tool"] }"#,
            &["`sandbox.run` lists `{tmp}`"],
        );
        check(
            r#"{ "write": ["{plugin}/data"] }"#,
            r#"{ "write": ["{plugin}"] }"#,
            r#"{ "write": ["{plugin}/data"] }"#,
            &[],
        );
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
            &["`443`, of which the host grants only `127.0.0.1:443`", "80"],
        );
        check(
            r#"{ "limits": { "processes": 4, "cpu": 0.5 }, "require": ["read"] }"#,
            r#"{ "limits": { "processes": 2, "open_files": 8 }, "require": ["net"],
                "namespaces": true }"#,
            r#"{ "limits": { "processes": 2, "cpu": 0.5, "open_files": 8 },
                "require": ["read", "net"], "namespaces": true }"#,
            &["`sandbox.limits.processes` is 4, of which the host grants only 2"],
        );
    }
}
