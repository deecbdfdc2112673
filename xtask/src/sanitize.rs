//! `cargo xtask sanitize`: runs tests with a sanitizer. AddressSanitizer checks loads and unloads of
//! real libraries, ThreadSanitizer the pool and the lease. For the latter, std is built with it, too:
//! otherwise it reports false races.

use clap::{Args, ValueEnum};

use crate::require;
use hotbay_build::{Workspace, cargo};

/// The only target on which this is tried. Naming it keeps the sanitizer out of build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

#[derive(Debug, Args)]
pub(crate) struct Options {
    sanitizer: Sanitizer,
    /// Filters of tests; default: those that the sanitizer is for.
    filters: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sanitizer {
    Address,
    Thread,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<()> {
    require::nightly(workspace)?;
    let mut command = cargo::nightly(&workspace.root);
    let (name, tests, filters) = match options.sanitizer {
        Sanitizer::Address => ("address", ADDRESS_TESTS, ADDRESS_FILTERS),
        Sanitizer::Thread => {
            // Without `rust-src`, cargo names the command that installs it.
            command.arg("-Zbuild-std");
            ("thread", THREAD_TESTS, THREAD_FILTERS)
        }
    };
    command.arg("test").args(tests).arg("--");
    match &options.filters[..] {
        [] => command.args(filters),
        filters => command.args(filters),
    };
    command.args(match options.sanitizer {
        Sanitizer::Address => ADDRESS_SKIPPED,
        Sanitizer::Thread => THREAD_SKIPPED,
    });
    // A retained library keeps its memory on purpose.
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    // By variables, since the tests build plugins, which need the same flags. The program exports
    // the sanitizer's runtime, which the plugins use.
    let flags = format!("-Zsanitizer={name} -Clink-arg=-rdynamic");
    command.env("RUSTFLAGS", flags).env("CARGO_BUILD_TARGET", TARGET);
    cargo::run(command.env("CARGO_TARGET_DIR", workspace.target.join(format!("sanitize-{name}"))))
}

const ADDRESS_TESTS: &[&str] =
    &["--package", "hotbay-tests", "--test", "it", "--features", "hotbay/tower"];
const ADDRESS_FILTERS: &[&str] = &["load::", "unload::"];
/// Tests of programs, whose address space is limited while the sanitizer reserves terabytes, and two
/// tests of functions that the sanitizer replaces itself.
const ADDRESS_SKIPPED: &[&str] = &[
    "--skip=both_kinds",
    "--skip=library_memory_in_process_keeps_library",
    "--skip=function_looked_up_with_version_is_detected",
];
const THREAD_TESTS: &[&str] = &["--package", "hotbay", "--lib", "--no-default-features"];
/// A mutant that fails because of the processor's reordering, which the sanitizer's calls prevent.
const THREAD_SKIPPED: &[&str] = &["--skip=without_barriers"];
const THREAD_FILTERS: &[&str] = &["generation::", "slot::", "sync::", "worker::"];
