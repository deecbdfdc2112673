//! `hotbay contract`: prints the contracts of a plugin, and compares two versions of them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use hotbay::contract::{Changes, ContractText, Impact, MethodChange, MethodText, compare};
use hotbay::{LoadStep, Manifest, PluginName, inspect};
use serde_json::{Value, json};

use crate::Status;
use crate::args::{Contract, ContractDiff, ContractShow, ContractVerb, Options};
use crate::failure::Failure;
use crate::output::{Out, print_message};
use crate::plugin_dirs::{builder, find_folder};

/// Maximum bytes of a text file; a longer file is a library.
const MAX_TEXT_BYTES: u64 = 64 * 1024;

pub(crate) fn contract(
    args: &Contract,
    options: &Options,
    out: &mut Out,
) -> Result<Status, Failure> {
    match &args.verb {
        ContractVerb::Show(args) => show(args, options, out),
        ContractVerb::Diff(args) => diff(args, options, out),
    }
}

fn show(args: &ContractShow, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let contracts = read(&args.plugin, options)?;
    if contracts.is_empty() {
        let message = format!("`{}` serves no contracts", args.plugin);
        let hint = "export them with `export_plugin!(YourType, contracts = [YourTrait]);`";
        return Err(Failure::new("not_found", message).with_hint(hint));
    }
    if options.json {
        let contracts: Vec<_> = contracts.iter().map(contract_json).collect();
        out.json(&json!({ "contracts": contracts }))?;
        return Ok(Status::Success);
    }
    for contract in &contracts {
        contract.to_string().lines().try_for_each(|line| out.line(line))?;
    }
    Ok(Status::Success)
}

fn diff(args: &ContractDiff, options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let (old, new) = (read(&args.old, options)?, read(&args.new, options)?);
    let pairs = pairs(&old, &new);
    let is_allowed = pairs.iter().all(Pair::is_allowed);
    if options.json {
        let contracts: Vec<_> = pairs.iter().map(Pair::json).collect();
        out.json(&json!({ "contracts": contracts, "allowed": is_allowed }))?;
    } else {
        if pairs.is_empty() {
            out.line("no contracts")?;
        }
        pairs.iter().try_for_each(|pair| pair.print(out))?;
    }
    Ok(if is_allowed { Status::Success } else { Status::Failed })
}

/// A contract in both versions.
enum Pair<'c> {
    Added(&'c ContractText),
    Removed(&'c ContractText),
    Both(&'c str, Changes),
}

/// Returns the contracts of the new version in its order, then those removed.
fn pairs<'c>(old: &'c [ContractText], new: &'c [ContractText]) -> Vec<Pair<'c>> {
    let of_new =
        new.iter().map(|contract| match old.iter().find(|before| before.name == contract.name) {
            Some(before) => Pair::Both(&contract.name, compare(before, contract)),
            None => Pair::Added(contract),
        });
    let is_removed = |contract: &&ContractText| !new.iter().any(|it| it.name == contract.name);
    of_new.chain(old.iter().filter(is_removed).map(Pair::Removed)).collect()
}

impl Pair<'_> {
    fn is_allowed(&self) -> bool {
        match self {
            Self::Added(_) => true,
            // Hosts that use it cannot call the new version.
            Self::Removed(_) => false,
            Self::Both(_, changes) => changes.are_allowed(),
        }
    }

    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        let (name, changes) = match self {
            Self::Added(contract) => {
                return out.line(&format!("{} {}: added", contract.name, contract.version));
            }
            Self::Removed(contract) => {
                let (name, version) = (&contract.name, contract.version);
                return out.line(&format!("{name} {version}: removed, which is breaking"));
            }
            Self::Both(name, changes) => (name, changes),
        };
        let (old, new) = (changes.old, changes.new);
        let versions = if old == new { old.to_string() } else { format!("{old} -> {new}") };
        out.line(&format!("{name} {versions}: {}", counts(changes)))?;
        changes.methods.iter().try_for_each(|change| out.line(&format!("  {change}")))?;
        if !self.is_allowed() {
            out.flush()?;
            let major = old.major.saturating_add(1);
            print_message(&format!("hint: contract `{name}` needs version {major}.0"));
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let (name, old, new, changes) = match self {
            Self::Added(contract) => (contract.name.as_str(), None, Some(contract.version), None),
            Self::Removed(contract) => (contract.name.as_str(), Some(contract.version), None, None),
            Self::Both(name, changes) => {
                (*name, Some(changes.old), Some(changes.new), Some(changes))
            }
        };
        let methods = changes.map(|changes| changes.methods.as_slice()).unwrap_or_default();
        json!({
            "name": name,
            "old": old.map(|version| version.to_string()),
            "new": new.map(|version| version.to_string()),
            "breaking": match changes {
                Some(changes) => changes.impact() == Impact::Breaking,
                None => new.is_none(),
            },
            "allowed": self.is_allowed(),
            "methods": methods.iter().map(change_json).collect::<Vec<_>>(),
        })
    }
}

/// Returns how many methods changed in each way, such as `2 added, 1 breaking`.
fn counts(changes: &Changes) -> String {
    let counts = ["added", "removed", "changed", "compatible", "breaking"].map(|label| {
        (changes.methods.iter().filter(|change| change.label() == label).count(), label)
    });
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts.map(|(count, label)| format!("{count} {label}")).collect();
    if counts.is_empty() { "unchanged".to_owned() } else { counts.join(", ") }
}

fn change_json(change: &MethodChange) -> Value {
    json!({
        "name": change.name(),
        "change": change.label(),
        "reasons": change.reasons,
        "old": change.old.as_ref().map(ToString::to_string),
        "new": change.new.as_ref().map(ToString::to_string),
    })
}

/// Returns a contract as JSON.
pub(crate) fn contract_json(contract: &ContractText) -> Value {
    json!({
        "name": contract.name,
        "version": contract.version.to_string(),
        "methods": contract.methods.iter().map(method_json).collect::<Vec<_>>(),
    })
}

fn method_json(method: &MethodText) -> Value {
    json!({
        "name": method.name,
        "signature": method.signature,
        "since": method.since.map(|version| version.to_string()),
        "permission": method.permission,
        "has_default": method.has_default,
    })
}

/// Reads the contracts of a plugin, a library or a text file.
fn read(plugin: &str, options: &Options) -> Result<Vec<ContractText>, Failure> {
    let path = Path::new(plugin);
    let is_manifest = path.file_name().is_some_and(|name| name == "plugin.json");
    // A folder with the name of an installed plugin may be its source.
    let is_name = PluginName::new(plugin).is_ok() && !path.is_file();
    if is_manifest || is_name || path.is_dir() {
        return of_folder(&find_folder(plugin, options)?, options);
    }
    let failed = |error: io::Error| Failure::io(format!("cannot read `{plugin}`"), &error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    let is_text = bytes.len() as u64 <= MAX_TEXT_BYTES && !bytes.contains(&0);
    match std::str::from_utf8(&bytes) {
        Ok(text) if is_text => ContractText::parse(text).map_err(|error| {
            let message = format!("`{plugin}` is not the text of contracts");
            Failure::new("invalid_input", message).because(error.to_string())
        }),
        _ => inspect::contracts(&builder(options, &[]), path).map_err(|error| {
            Failure::titled(format!("cannot read the contracts of `{plugin}`"), error)
        }),
    }
}

fn of_folder(folder: &Path, options: &Options) -> Result<Vec<ContractText>, Failure> {
    let inspection = inspect::plugin(&builder(options, &[]), folder);
    let title = format!("cannot read the contracts of `{}`", folder.display());
    let manifest = inspection.surveyed.manifest.as_ref();
    if let Some(manifest) = manifest.filter(|manifest| manifest.kind().as_str() == "process") {
        return Err(of_program(manifest, title));
    }
    match inspection.surveyed.problem {
        // A library that this host would refuse for another reason can be read.
        Some(problem)
            if inspection.library.is_none() || problem.step() == Some(LoadStep::Probe) =>
        {
            Err(Failure::titled(title, problem))
        }
        _ => Ok(inspection.contracts),
    }
}

/// Returns the error for a program, with the contracts that its manifest maps onto endpoints.
fn of_program(manifest: &Manifest, title: String) -> Failure {
    let mut reason = "it is a program, which describes its contracts only when it runs".to_owned();
    for provided in manifest.provides().iter().filter(|provided| !provided.methods.is_empty()) {
        let (contract, version) = (&provided.contract, &provided.version);
        let methods = provided.methods.iter();
        let methods = methods.map(|(name, mapped)| format!("{name} -> {}", mapped.endpoint));
        let methods = methods.collect::<Vec<_>>().join(", ");
        reason.push_str(&format!(
            "; plugin.json maps contract `{contract}` {version} onto endpoints, without types: \
             {methods}"
        ));
    }
    let hint = "run the program with the argument `capabilities`, which prints the text of its \
                contracts; `hotbay check` calls their methods";
    Failure::new("unsupported", title).because(reason).with_hint(hint)
}
