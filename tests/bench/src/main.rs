//! `cargo xtask bench`: every promised number, with its goal and compared with a loader without
//! hotbay, measured in one run. Each group runs in a subprocess.

#![allow(clippy::print_stdout, reason = "this is a command")]

mod builds;
mod calls;
mod contracts;
mod fixtures;
mod inner;
mod layers;
mod lines;
mod loads;
mod many;
mod panics;
mod peers;
mod pooled;
mod process;
mod processes;
mod raw;
mod rebuilds;
mod reloads;
mod sample;
mod schemas;
mod soak;
mod storage;
mod table;
mod threads;
mod workspace;

use std::ffi::OsString;

use anyhow::bail;
use clap::{Parser, Subcommand, ValueEnum};

use table::Report;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures hotbay and compares it with a loader without it")]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// The groups to measure; all by default.
    groups: Vec<Group>,
    /// Uses few and short samples, only to check that the benchmarks work.
    #[arg(long)]
    quick: bool,
    /// Prints tables as Markdown.
    #[arg(long)]
    markdown: bool,
    /// The cargo profile of this program, with which the plugins are built too.
    #[arg(long, default_value = fixtures::RELEASE)]
    profile: String,
    /// The mode in which this program starts itself, and its arguments.
    #[arg(long, hide = true, num_args = 1.., allow_hyphen_values = true)]
    child: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
enum Instead {
    /// Reloads plugins under load for a long time, and checks for losses and growth.
    Soak(soak::Options),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Single calls, compared with raw calls.
    Calls,
    /// Typed calls, compared with raw calls.
    Contracts,
    /// Calls from two threads at once.
    Threads,
    /// Loading one plugin, step by step.
    Loads,
    /// Time from a new build in place to its first reply.
    Reloads,
    /// A thousand plugin folders: listed, loaded, unloaded.
    Many,
    /// A million panics.
    Panics,
    /// Pooled calls, compared with tokio's blocking pool and a bare channel.
    Pooled,
    /// The cost of the layers around a call.
    Layers,
    /// The cost of checking an input against a schema.
    Schemas,
    /// A million lines through a pipeline.
    Lines,
    /// Process plugins, compared with a bare HTTP client and server.
    Processes,
    /// Isolated libraries, compared with bare frames over a socket.
    Isolated,
    /// From a saved source of a plugin to the reply of its new code.
    Inner,
    /// Builds of plugins after an edit, compared with a plain library.
    Rebuilds,
    /// Values in SQLite through the plugin `storage`, compared with SQLite without a plugin.
    Storage,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    fixtures::set_profile(&options.profile);
    if let Some((what, arguments)) = options.child.split_first() {
        return child(what, arguments);
    }
    if let Some(Instead::Soak(options)) = &options.instead {
        return soak::run(options);
    }
    if let [group] = options.groups[..] {
        return measure(group, &options);
    }
    let groups = match &options.groups[..] {
        [] => Group::value_variants(),
        some => some,
    };
    fixtures::build()?;
    for group in groups {
        let name = group.to_possible_value();
        let mut arguments = vec![name.map_or_else(String::new, |name| name.get_name().to_owned())];
        arguments.extend(["--profile".to_owned(), options.profile.clone()]);
        arguments.extend(options.quick.then(|| "--quick".to_owned()));
        arguments.extend(options.markdown.then(|| "--markdown".to_owned()));
        let status = process::this_program(&arguments)?.status()?;
        if !status.success() {
            bail!("group `{}` failed with {status}", arguments[0]);
        }
    }
    Ok(())
}

fn measure(group: Group, options: &Options) -> anyhow::Result<()> {
    let report = Report::new(options.markdown);
    let fixtures = fixtures::build()?;
    match group {
        Group::Calls => calls::measure(&fixtures, options.quick, &report),
        Group::Contracts => contracts::measure(&fixtures, options.quick, &report),
        Group::Threads => threads::measure(&fixtures, options.quick, &report),
        Group::Loads => loads::measure(&fixtures, options.quick, &report),
        Group::Reloads => reloads::measure(&fixtures, options.quick, &report),
        Group::Many => many::measure(&fixtures, options.quick, &report),
        Group::Panics => panics::measure(&fixtures, options.quick, &report),
        Group::Pooled => pooled::measure(&fixtures, options.quick, &report),
        Group::Layers => layers::measure(&fixtures, options.quick, &report),
        Group::Schemas => schemas::measure(options.quick, &report),
        Group::Lines => lines::measure(options.quick, &report),
        Group::Processes => processes::measure(options.quick, &report),
        Group::Isolated => processes::isolated::measure(options.quick, &report),
        Group::Inner => inner::measure(options.quick, &report),
        Group::Rebuilds => rebuilds::measure(options.quick, &report),
        Group::Storage => storage::measure(options.quick, &report),
    }
}

fn child(what: &OsString, arguments: &[OsString]) -> anyhow::Result<()> {
    match (what.to_str(), arguments) {
        (Some("panics"), [dir, count]) => panics::child(dir.as_ref(), count),
        (Some("load"), [dir]) => many::load(dir.as_ref()),
        (Some("survey"), [dir]) => many::survey(dir.as_ref()),
        (Some("bare-server"), [socket, kind]) => processes::bare_server(socket.as_ref(), kind),
        (Some("frames-server"), [socket]) => processes::isolated::serve_frames(socket.as_ref()),
        (Some("host"), [staging, folders @ ..]) => {
            soak::host_until_killed(staging.as_ref(), folders);
            Ok(())
        }
        _ => bail!("unknown child mode `{}`", what.display()),
    }
}
