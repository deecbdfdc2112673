//! `cargo xtask bench`: runs the benchmarks in release mode.

use clap::Args;

use hotbay_build::{Workspace, cargo};

/// The crate of the benchmarks.
const PACKAGE: &str = "hotbay-bench";

/// The profiles with which calls are measured; the first measures everything. The others have the
/// settings of applications, which inline less.
const PROFILES: [&str; 2] = ["release", "default-release"];

/// The groups of calls.
const CALLS: [&str; 4] = ["calls", "threads", "layers", "isolated"];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments for the benchmarks.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    let arguments = &options.arguments;
    let (flags, groups): (Vec<&str>, Vec<&str>) =
        arguments.iter().map(String::as_str).partition(|argument| argument.starts_with('-'));
    let calls: Vec<&str> =
        CALLS.into_iter().filter(|group| groups.is_empty() || groups.contains(group)).collect();
    for profile in PROFILES {
        let groups = if profile == PROFILES[0] { &groups } else { &calls };
        if profile != PROFILES[0] && groups.is_empty() {
            continue;
        }
        let mut command = cargo::cargo(&workspace.root);
        command.args(["run", "--profile", profile, "--package", PACKAGE, "--"]);
        command.args(["--profile", profile]).args(&flags).args(groups);
        cargo::run(&mut command)?;
    }
    Ok(())
}
