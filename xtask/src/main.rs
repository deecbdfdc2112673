//! `cargo xtask VERB`: the project's own commands, one file a verb.
//! Nothing here is linked into the host or into a plugin.

#![allow(clippy::print_stdout, reason = "results on stdout are what this command is for")]

mod bench;
mod build_plugins;
mod ci;
mod demo;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use hotbay_build::{Workspace, new_plugin};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Builds plugins, each in its own cargo call, and installs them with their manifests.
    BuildPlugins(build_plugins::Options),
    /// Writes a new plugin that builds and passes its test.
    NewPlugin(new_plugin::Options),
    /// Looks for what the compiler does not: order of rooms, `unsafe`, dependencies, links.
    Tidy,
    /// Runs every test of the workspace.
    Test(test::Options),
    /// Runs what CI runs, step by step.
    Ci,
    /// Shows the main job: plugins at work while one of them is swapped.
    Demo(demo::Options),
    /// Runs the benchmarks.
    Bench(bench::Options),
    /// Reloads under load for a long time, looking for what grows.
    Soak(soak::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            hotbay_build::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    let workspace = Workspace::here()?;
    match verb {
        Verb::BuildPlugins(options) => build_plugins::run(&workspace, &options).map(drop),
        Verb::NewPlugin(options) => new_plugin::create_in(&workspace, &options),
        Verb::Tidy => tidy::run(&workspace),
        Verb::Test(options) => test::run(&workspace, &options),
        Verb::Ci => ci::run(&workspace),
        Verb::Demo(options) => demo::run(&workspace, &options),
        Verb::Bench(options) => bench::run(&workspace, &options),
        Verb::Soak(options) => soak::run(&workspace, &options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_all_verbs_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
