//! `hotbay doctor`: prints what this machine can enforce of the sandboxes of plugins.

use hotbay::confinement::{Confinement, Kernel};
use serde_json::{Value, json};

use crate::Status;
use crate::args::Options;
use crate::failure::Failure;
use crate::output::Out;

pub(crate) fn doctor(options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let kernel = Kernel::current();
    let confinement = Confinement::of_all_rules(kernel);
    if options.json {
        out.json(&json!({
            "landlock": kernel.landlock,
            "seccomp": kernel.seccomp,
            "namespaces": kernel.namespaces.is_ok(),
            "rules": rules_json(&confinement),
        }))?;
        return Ok(Status::Success);
    }
    out.line("sandboxes of programs on this machine:")?;
    print_rules(&confinement, "  ", out)?;
    let landlock = match kernel.landlock {
        0 => "Landlock is not available".to_owned(),
        version => format!("Landlock {version}"),
    };
    let seccomp = if kernel.seccomp { "available" } else { "not available" };
    out.line(&format!("kernel: {landlock}; filters of system calls (seccomp) are {seccomp}"))?;
    Ok(Status::Success)
}

/// Prints each rule with its status, and with the reason if it is not enforced.
pub(crate) fn print_rules(
    confinement: &Confinement,
    title: &str,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut start = title.to_owned();
    for rule in &confinement.rules {
        let (name, status) = (rule.rule.as_str(), rule.status.as_str());
        let reason = rule.status.reason().unwrap_or_default();
        let line = format!("{start}{name:<17}{status:<13}{reason}");
        out.line(line.trim_end())?;
        start = " ".repeat(title.len());
    }
    Ok(())
}

pub(crate) fn rules_json(confinement: &Confinement) -> Value {
    let rules = confinement.rules.iter().map(|rule| {
        json!({
            "rule": rule.rule.as_str(), "status": rule.status.as_str(),
            "reason": rule.status.reason(),
        })
    });
    rules.collect()
}
