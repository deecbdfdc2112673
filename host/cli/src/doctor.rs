//! `hotbay doctor`: prints what this machine can enforce of the sandboxes of plugins, and the program
//! that runs isolated libraries.

use hotbay::confinement::Confinement;
use hotbay::inspect::{self, Machine};
use serde_json::{Value, json};

use crate::Status;
use crate::args::Options;
use crate::failure::{Failure, error_json, short};
use crate::output::Out;
use crate::plugin_dirs::builder;

pub(crate) fn doctor(options: &Options, out: &mut Out) -> Result<Status, Failure> {
    let Machine { kernel, confinement, runner, .. } = inspect::machine(&builder(options, &[]));
    if options.json {
        out.json(&json!({
            "landlock": kernel.landlock,
            "seccomp": kernel.seccomp,
            "namespaces": kernel.namespaces.is_ok(),
            "rules": rules_json(&confinement),
            "runner": runner.as_ref().ok().map(|runner| runner.display().to_string()),
            "runner_problem": runner.as_ref().err().map(error_json),
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
    match runner {
        Ok(runner) => out.line(&format!("isolated libraries: run by {}", runner.display()))?,
        Err(error) => {
            out.line(&format!("isolated libraries: {}", short(&error)))?;
            if let Some(hint) = error.hint() {
                out.line(&format!("  hint: {hint}"))?;
            }
        }
    }
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
