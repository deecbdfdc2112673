//! `hotbay inspect`: prints details of a plugin, without running it.

use std::collections::BTreeSet;

use hotbay::inspect::{self, Built, Inspection};
use hotbay::manifest::{Isolation, Provided, Sandbox};
use hotbay::{Manifest, SignatureStatus, SignedBy};
use serde_json::{Value, json};

use crate::args::{Inspect, Options};
use crate::child_process::{self, ChildOutcome};
use crate::config::without_secrets;
use crate::config_values::{has, is_set};
use crate::contract::contract_json;
use crate::doctor::{print_rules, rules_json};
use crate::failure::{Failure, error_json, short};
use crate::output::Out;
use crate::plugin_dirs::{FoundPlugin, builder, find, place};
use crate::{Status, survey_report};

/// The digest of a plugin whose manifest does not state it.
const NO_DIGEST: &str = "not in the manifest";

pub(crate) fn inspect(args: &Inspect, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let FoundPlugin { folder, instance } = find(&args.plugin, options)?;
    let builder = builder(options, &[]);
    let inspection = match &instance {
        Some(name) => inspect::instance(&builder, &folder, name)
            .map_err(|error| Failure::new("not_found", error.to_string()))?,
        None => inspect::plugin(&builder, &folder),
    };
    let can_be_opened = inspection.library.is_some() && !is_process(&inspection);
    let abi = match args.verbose && can_be_opened {
        true => Some(abi(&inspection, options)?),
        false => None,
    };
    if options.json {
        let mut json = as_json(&inspection, options);
        if let Some(abi) = &abi {
            json["abi"] = abi.json();
        }
        out.json(&json)?;
    } else {
        print(&inspection, options, out)?;
        if let Some(abi) = &abi {
            abi.print(out)?;
        }
    }
    let is_loadable = inspection.surveyed.problem.is_none() && abi.is_none_or(|abi| abi.is_same());
    match is_loadable {
        true => Ok(Status::Success),
        false => Ok(Status::Failed),
    }
}

/// Returns whether the plugin is a program, which cannot be opened like a library.
fn is_process(inspection: &Inspection) -> bool {
    let manifest = inspection.surveyed.manifest.as_ref();
    manifest.is_some_and(|manifest| manifest.kind().as_str() == "process")
}

/// The comparison of the library's interface with this host's, in a child process.
enum Abi {
    Same,
    Differs(String),
    NotOpened(String),
}

fn abi(inspection: &Inspection, options: &Options) -> Result<Abi, Failure> {
    let plugin = place(&inspection.surveyed);
    let outcome = child_process::run("trial-abi", plugin, &BTreeSet::new(), options)
        .map_err(|error| Failure::io("cannot start a separate process", &error))?;
    Ok(match outcome {
        ChildOutcome::Failed(reason) => Abi::NotOpened(format!("the plugin {reason}")),
        ChildOutcome::Completed(document) => {
            match (&document["report"], &document["problem"]["message"]) {
                (Value::String(report), _) => Abi::Differs(report.clone()),
                (_, Value::String(message)) => Abi::NotOpened(message.clone()),
                _ => Abi::Same,
            }
        }
    })
}

impl Abi {
    fn is_same(&self) -> bool {
        matches!(self, Self::Same)
    }

    fn json(&self) -> Value {
        match self {
            Self::Same => json!({ "state": "same", "report": null }),
            Self::Differs(report) => json!({ "state": "differs", "report": report }),
            Self::NotOpened(reason) => json!({ "state": "not_opened", "report": reason }),
        }
    }

    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        match self {
            Self::Same => out.line("interface: same as this host's"),
            Self::NotOpened(reason) => out.line(&format!("interface: not compared: {reason}")),
            Self::Differs(report) => {
                out.line("interface: differs from this host's:")?;
                report.lines().try_for_each(|line| out.line(line))
            }
        }
    }
}

fn print(inspection: &Inspection, options: &Options, out: &mut Out) -> Result<(), Failure> {
    let surveyed = &inspection.surveyed;
    out.line(&title(inspection))?;
    let mut facts = vec![("folder", surveyed.folder.display().to_string())];
    if let Some(manifest) = &surveyed.manifest {
        facts.extend(manifest_facts(manifest, options));
    }
    if let Some(built) = &surveyed.built {
        facts.extend(stamp_facts(built));
    }
    facts.extend(file_facts(inspection));
    facts.extend(signature_facts(&surveyed.signature));
    facts.extend(surveyed.notes.iter().map(|note| ("note", note.clone())));
    for (name, fact) in facts.iter().filter(|(_, fact)| !matches!(fact.as_str(), "" | "{}")) {
        out.line(&format!("  {name:<15}{fact}"))?;
        if fact == NO_DIGEST {
            out.line(&format!("  hint: {}", survey_report::seal_hint(surveyed)))?;
        }
    }
    print_permissions(inspection, out)?;
    match &inspection.confinement {
        Some(confinement) => print_rules(confinement, &format!("  {:<15}", "sandbox"), out)?,
        None if survey_report::runs_in_own_process(surveyed) => {
            out.line(&format!("  {:<15}none: it can do what the host can do", "sandbox"))?;
        }
        None => {}
    }
    print_granted(inspection, out)?;
    for contract in &inspection.contracts {
        out.line(&format!("  {:<15}{} {}", "contract", contract.name, contract.version))?;
        contract.methods.iter().try_for_each(|method| out.line(&format!("    {method}")))?;
    }
    match &surveyed.problem {
        None => out.line(&format!("state: {}", survey_report::state(surveyed, false))),
        Some(error) => {
            let state = if surveyed.is_disabled { "disabled, refused" } else { "refused" };
            out.line(&format!("state: {state}: {}", short(error)))?;
            error.hint().map_or(Ok(()), |hint| out.line(&format!("  hint: {hint}")))
        }
    }
}

/// Prints what the sandbox permits, and what the host does not grant of it.
fn print_granted(inspection: &Inspection, out: &mut Out) -> Result<(), Failure> {
    if let Some(sandbox) = &inspection.sandbox {
        out.line(&format!("  {:<15}{}", "grants", sandbox.to_json()))?;
    }
    for (at, note) in inspection.not_granted.iter().enumerate() {
        let title = if at == 0 { "not granted" } else { "" };
        out.line(&format!("  {title:<15}{note}"))?;
    }
    Ok(())
}

/// Prints what the manifest requests, what is granted, and what the plugin has.
fn print_permissions(inspection: &Inspection, out: &mut Out) -> Result<(), Failure> {
    let permissions = &inspection.permissions;
    let Some(width) = permissions.iter().map(|one| one.permission.len()).max() else {
        return Ok(());
    };
    for (at, one) in permissions.iter().enumerate() {
        let title = if at == 0 { "permissions" } else { "" };
        let requested = if one.is_requested { "requested" } else { "not requested" };
        let granted = if one.is_granted { "granted" } else { "not granted" };
        let result = match (one.is_requested, one.is_granted) {
            (true, true) => "allowed",
            (true, false) => "denied",
            (false, _) => "unused",
        };
        let permission = &one.permission;
        out.line(&format!(
            "  {title:<15}{permission:<width$}  {requested:<13}  {granted:<11}  {result}"
        ))?;
    }
    Ok(())
}

fn title(inspection: &Inspection) -> String {
    let name = survey_report::name(&inspection.surveyed);
    match &inspection.surveyed.manifest {
        Some(manifest) => format!("{name} {} ({})", manifest.version(), manifest.kind()),
        None => name,
    }
}

fn provided(provided: &Provided) -> String {
    let methods = provided.methods.iter();
    let methods: Vec<_> =
        methods.map(|(name, mapped)| format!("{name} at /{}", mapped.endpoint)).collect();
    let contract = format!("{} {}", provided.contract, provided.version);
    if methods.is_empty() { contract } else { format!("{contract} ({})", methods.join(", ")) }
}

type Facts = Vec<(&'static str, String)>;

fn manifest_facts(manifest: &Manifest, options: &Options) -> Facts {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let requires = manifest.requires().iter();
    let requires: Vec<_> = requires.map(|(name, version)| format!("{name} {version}")).collect();
    let provides: Vec<_> = manifest.provides().iter().map(provided).collect();
    vec![
        ("description", text(manifest.description())),
        ("authors", manifest.authors().join(", ")),
        ("license", text(manifest.license())),
        ("homepage", text(manifest.homepage())),
        ("requires API", manifest.api().to_string()),
        ("requires", requires.join(", ")),
        ("provides", provides.join(", ")),
        ("limits", limits(manifest).to_string()),
        ("config", shown_config(manifest, options).to_string()),
        ("isolation", isolation(manifest, options).map(|it| it.text()).unwrap_or_default()),
        ("command", manifest.command().join(" ")),
    ]
}

/// What decides that a library runs in its own process.
enum IsolatedBy {
    Manifest,
    /// The entry of this plugin in the configuration.
    Plugin(String),
    /// The configuration, for all libraries.
    Host,
}

impl IsolatedBy {
    fn text(&self) -> String {
        let by = match self {
            Self::Manifest => "`isolation` in its plugin.json".to_owned(),
            Self::Plugin(name) => format!("`isolation` in `[plugins.{name}]` of hotbay.toml"),
            Self::Host => "`isolate_libraries` in `[sandbox]` of hotbay.toml".to_owned(),
        };
        format!("runs in its own process: {by}")
    }

    fn json(&self) -> Value {
        let by = match self {
            Self::Manifest => "plugin.json".to_owned(),
            Self::Plugin(name) => format!("plugins.{name}.isolation"),
            Self::Host => "sandbox.isolate_libraries".to_owned(),
        };
        json!({ "mode": "process", "set_by": by })
    }
}

/// Returns what isolates a library; `None` if it runs in the host's process.
fn isolation(manifest: &Manifest, options: &Options) -> Option<IsolatedBy> {
    if manifest.isolation() != Isolation::Process {
        return None;
    }
    let name = manifest.name();
    let is_set_here = |path: &str| options.config_file.as_ref().is_some_and(|file| has(file, path));
    Some(match () {
        () if is_set_here(&format!("plugins.{name}.isolation")) => {
            IsolatedBy::Plugin(name.to_string())
        }
        () if is_set(options, "sandbox.isolate_libraries") => IsolatedBy::Host,
        () => IsolatedBy::Manifest,
    })
}

/// Returns the config without secrets.
fn shown_config(manifest: &Manifest, options: &Options) -> Value {
    without_secrets(manifest.name().as_str(), manifest.config(), options)
}

fn stamp_facts(built: &Built) -> Facts {
    vec![
        ("package", format!("{} {}", built.package, built.version)),
        ("built for API", built.api.to_string()),
        ("compiler", built.rustc.clone()),
        ("target", format!("{}, panic={}", built.target, built.panic)),
    ]
}

fn file_facts(inspection: &Inspection) -> Facts {
    let (Some(library), Some(sha256)) = (&inspection.library, &inspection.sha256) else {
        return Vec::new();
    };
    let manifest = inspection.surveyed.manifest.as_ref();
    let digest = match manifest.and_then(|manifest| manifest.sha256()) {
        None => NO_DIGEST.to_owned(),
        Some(stated) if stated == sha256 => "matches the manifest".to_owned(),
        Some(stated) => format!("differs from the manifest: {stated}"),
    };
    vec![
        (if is_process(inspection) { "program" } else { "library" }, library.display().to_string()),
        ("bytes", inspection.length.map_or_else(String::new, |length| length.to_string())),
        ("SHA-256", sha256.to_string()),
        ("digest", digest),
        ("links", inspection.needs.join(", ")),
        ("exports", inspection.exports.join(", ")),
        ("stays mapped", inspection.stays_mapped.clone().unwrap_or_default()),
    ]
}

/// Returns who signed the plugin. Why a signature was not accepted is the problem of the plugin.
fn signature_facts(signature: &SignatureStatus) -> Facts {
    let by = match signature {
        SignatureStatus::Valid(by) => by,
        SignatureStatus::Unsigned => return vec![("signature", "none".to_owned())],
        _ => return Vec::new(),
    };
    let files = format!("all {} files are the signed ones", by.files);
    let mut facts = vec![
        ("signed by", format!("{} (key {})", by.key, by.key_id)),
        ("signature", files),
        ("comment", by.trusted_comment.clone()),
    ];
    if let Some(time) = signed_at(by) {
        facts.insert(1, ("signed at", time));
    }
    facts
}

/// Returns the time that the signer states, in UTC.
fn signed_at(by: &SignedBy) -> Option<String> {
    let time = jiff::Timestamp::try_from(by.signed_at?).ok()?;
    Some(time.to_string())
}

pub(crate) fn signature_json(signature: &SignatureStatus) -> Value {
    match signature {
        SignatureStatus::Valid(by) => json!({
            "state": "valid", "key": by.key, "key_id": by.key_id, "files": by.files,
            "trusted_comment": by.trusted_comment, "signed_at": signed_at(by),
        }),
        SignatureStatus::Unsigned => json!({ "state": "unsigned" }),
        _ => json!({ "state": "not_checked" }),
    }
}

fn as_json(inspection: &Inspection, options: &Options) -> Value {
    let surveyed = &inspection.surveyed;
    let manifest = surveyed.manifest.as_ref();
    let sha256 = manifest.and_then(|manifest| manifest.sha256());
    let file = inspection.library.as_ref().map(|library| {
        json!({
            "path": library.display().to_string(),
            "length": inspection.length,
            "stated_length": manifest.and_then(Manifest::length),
            "sha256": inspection.sha256.as_ref().map(ToString::to_string),
            "stated_sha256": sha256.map(ToString::to_string),
            "verified": surveyed.verified,
            "links": inspection.needs,
            "exports": inspection.exports,
            "stays_mapped": inspection.stays_mapped,
        })
    });
    json!({
        "name": manifest.map(|manifest| manifest.name().as_str()),
        "version": manifest.map(|manifest| manifest.version().to_string()),
        "kind": manifest.map(|manifest| manifest.kind().as_str()),
        "folder": surveyed.folder.display().to_string(),
        "manifest": manifest.map(|manifest| manifest_json(manifest, options)),
        "built": surveyed.built.as_ref().map(|built| json!({
            "package": built.package, "version": built.version.to_string(),
            "api": built.api.to_string(), "rustc": built.rustc,
            "target": built.target, "panic": built.panic,
        })),
        "library": file.as_ref().filter(|_| !is_process(inspection)),
        "permissions": inspection.permissions.iter().map(|one| json!({
            "permission": one.permission, "is_requested": one.is_requested,
            "is_granted": one.is_granted, "is_allowed": one.is_requested && one.is_granted,
        })).collect::<Vec<_>>(),
        "isolation": manifest
            .and_then(|manifest| isolation(manifest, options))
            .map(|isolation| isolation.json()),
        "notes": surveyed.notes,
        "sandbox": inspection.confinement.as_ref().map(rules_json),
        "grants": inspection.sandbox.as_ref().map(Sandbox::to_json),
        "not_granted": inspection.not_granted,
        "contracts": inspection.contracts.iter().map(contract_json).collect::<Vec<_>>(),
        "program": file.as_ref().filter(|_| is_process(inspection)),
        "signature": signature_json(&surveyed.signature),
        "state": survey_report::state(surveyed, surveyed.problem.is_some()),
        "problem": surveyed.problem.as_ref().map(error_json),
    })
}

fn manifest_json(manifest: &Manifest, options: &Options) -> Value {
    let requires = manifest.requires().iter();
    let requires: serde_json::Map<_, _> =
        requires.map(|(name, version)| (name.to_string(), version.to_string().into())).collect();
    let provides = manifest.to_json().get_mut("provides").map(Value::take);
    let provides = provides.unwrap_or_else(|| json!([]));
    json!({
        "package": manifest.package(), "api": manifest.api().to_string(),
        "description": manifest.description(), "authors": manifest.authors(),
        "license": manifest.license(), "homepage": manifest.homepage(),
        "config": shown_config(manifest, options), "requires": requires, "provides": provides,
        "permissions": manifest.permissions(), "limits": limits(manifest),
        "handover": manifest.handover().as_str(), "unload": manifest.unload().as_str(),
        "isolation": manifest.isolation().as_str(), "command": manifest.command(),
    })
}

/// Returns the limits in the manifest, without those that it does not set.
fn limits(manifest: &Manifest) -> Value {
    let limits = manifest.limits();
    let mut json = json!({
        "deadline_ms": limits.deadline.map(|it| it.as_millis() as u64), "workers": limits.workers, "queue": limits.queue,
        "in_flight": limits.in_flight, "memory_bytes": limits.memory_bytes,
        "call_memory_bytes": limits.call_memory_bytes,
        "input_bytes": limits.input_bytes, "output_bytes": limits.output_bytes,
        "stack_bytes": limits.stack_bytes, "open_streams": limits.open_streams,
    });
    if let Some(limits) = json.as_object_mut() {
        limits.retain(|_, limit| !limit.is_null());
    }
    json
}
