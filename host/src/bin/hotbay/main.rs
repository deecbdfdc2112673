//! The `hotbay` command, one file per verb. Results go to stdout, everything else to stderr. Uses
//! only the public API of the library.

mod args;
mod build;
mod call;
mod check;
mod child;
mod deadline;
mod each_line;
mod events;
mod failure;
mod failures;
mod feed;
mod input;
mod inspect;
mod lines;
mod list;
mod manual;
mod output;
mod page;
mod pipe;
mod places;
mod program;
mod progress;
mod report;
mod run;
mod seal;
mod signals;
mod start;
mod steps;

mod trial;
mod two_threads;
mod vetting;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Options, Verb};
use failure::Failure;
use output::{Out, say};

/// The outcome as an exit code.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Success: 0.
    Well,
    /// A failure that was printed: 1.
    Wrong,
}

fn main() -> ExitCode {
    let args = Args::parse();
    start_log(&args.options);
    let mut out = Out::new();
    let ended = run(&args, &mut out);
    let ended = ended.and_then(|verdict| out.flush().map(|()| verdict));
    match ended {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::Wrong) => ExitCode::from(1),
        Err(failure) => {
            print(&failure, &args.options, &mut out);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(args: &Args, out: &mut Out) -> Result<Verdict, Failure> {
    let options = &args.options;
    match &args.verb {
        Verb::New(options) => build::new(options),
        Verb::Build(args) => build::build(args),
        Verb::List => list::list(options, out),
        Verb::Inspect(args) => inspect::inspect(args, options, out),
        Verb::Check(args) => check::check(args, options, out),
        Verb::Seal(args) => seal::seal(args, options, out),
        Verb::Call(args) => call::call(args, options, out),
        Verb::Pipe(args) => pipe::pipe(args, options, out),
        Verb::Run(args) => run::run(args, options, out),
        Verb::Completions(args) => manual::completions(args, out),
        Verb::Man(args) => manual::man(args, out),
        Verb::TrialLoad(args) => trial::load(args, options, out),
        Verb::TrialAbi(args) => trial::abi(args, options, out),
    }
}

fn print(failure: &Failure, options: &Options, out: &mut Out) {
    if options.json {
        let printed = out.json(&serde_json::json!({ "error": failure.json() }));
        if printed.and_then(|()| out.flush()).is_ok() {
            return;
        }
    }
    for line in failure.lines() {
        say(&line);
    }
}

/// Prints the log of the host and its plugins to stderr, if `-v` is given.
fn start_log(options: &Options) {
    let level = match options.log {
        0 => return,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && output::wants_colours())
        .init();
}
