//! `cargo xtask COMMAND`: development commands of this project, one file per command. Nothing here is
//! linked into the host or into plugins.

#![allow(clippy::print_stdout, reason = "the command prints results on stdout")]

mod api;
mod bench;
mod build_plugins;
mod ci;
mod demo;
mod deny;
mod docs;
mod features;
mod fuzz;
mod miri;
mod require;
mod sanitize;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use hotbay_build::{Workspace, new_plugin};

/// Development commands of this project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds plugins, each in its own cargo call, and installs them with their manifests.
    BuildPlugins(build_plugins::Options),
    /// Creates a new plugin that builds and passes its test.
    NewPlugin(new_plugin::Options),
    /// Checks what the compiler does not: order of modules, `unsafe`, dependencies, links, language.
    Tidy,
    /// Checks that the host compiles with every subset of its default features.
    Features,
    /// Builds the guide, and checks its links.
    Docs,
    /// Runs all tests of the workspace.
    Test(test::Options),
    /// Runs the steps of CI.
    Ci,
    /// Builds the example plugins and runs the demo: calls, a panic, and a reload under load.
    Demo(demo::Options),
    /// Runs the benchmarks.
    Bench(bench::Options),
    /// Reloads plugins under load for several minutes, and checks for lost calls and memory growth.
    Soak(soak::Options),
    /// Checks the public API of the SDK against `plugin-api/API.txt`.
    Api(api::Options),
    /// Checks licenses, advisories, duplicates and sources of all dependencies.
    Deny(deny::Options),
    /// Runs the fuzz targets: with libFuzzer if `cargo fuzz` is installed, otherwise on mutants.
    Fuzz(fuzz::Options),
    /// Runs tests without system calls in Miri, which finds undefined behavior.
    Miri(miri::Options),
    /// Runs tests with AddressSanitizer or ThreadSanitizer.
    Sanitize(sanitize::Options),
}

fn main() -> ExitCode {
    if let Some(code) = hotbay_build::plugins::run_as_wrapper() {
        return code;
    }
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            hotbay_build::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let workspace = Workspace::here()?;
    match command {
        Command::BuildPlugins(options) => build_plugins::run(&workspace, &options).map(drop),
        Command::NewPlugin(options) => new_plugin::create_in(&workspace, &options),
        Command::Tidy => tidy::run(&workspace),
        Command::Features => features::run(&workspace),
        Command::Docs => docs::run(&workspace),
        Command::Test(options) => test::run(&workspace, &options),
        Command::Ci => ci::run(&workspace),
        Command::Demo(options) => demo::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Soak(options) => soak::run(&workspace, &options),
        Command::Api(options) => api::run(&workspace, &options),
        Command::Deny(options) => deny::run(&workspace, &options),
        Command::Fuzz(options) => fuzz::run(&workspace, &options),
        Command::Miri(options) => miri::run(&workspace, &options),
        Command::Sanitize(options) => sanitize::run(&workspace, &options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_all_commands_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
