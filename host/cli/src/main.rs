//! The `hotbay` command, one file per verb. Results go to stdout, everything else to stderr. Uses
//! only the public API of the library.

mod args;
mod build;
mod call;
mod check;
mod child_process;
mod config;
mod config_notes;
mod config_values;
mod contract;
mod dev;
mod doctor;
mod events;
mod failure;
mod input;
mod inspect;
mod list;
mod metrics_page;
mod output;
mod pipe;
mod pipe_lines;
mod plugin_dirs;
mod request_stream;
mod run;
mod seal;
mod sign;
mod signals;
mod start;
mod survey_report;
mod trial_loads;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Options, Verb};
use failure::Failure;
use output::{Out, print_message};

/// The exit code of a verb that printed its output.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// Exit code 0.
    Success,
    /// Exit code 1, for a failure that was printed.
    Failed,
}

fn main() -> ExitCode {
    if let Some(code) = hotbay_build::plugins::run_as_wrapper() {
        return code;
    }
    let mut args = Args::parse();
    start_log(&args.options);
    let mut out = Out::new();
    let outcome = config::read(&mut args).and_then(|()| run(&args, &mut out));
    match outcome.and_then(|status| out.flush().map(|()| status)) {
        Ok(Status::Success) => ExitCode::SUCCESS,
        Ok(Status::Failed) => ExitCode::from(1),
        Err(failure) => {
            print(&failure, &args.options, &mut out);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(args: &Args, out: &mut Out) -> Result<Status, Failure> {
    let options = &args.options;
    match &args.verb {
        Verb::New(options) => build::new(options),
        Verb::Build(args) => build::build(args),
        Verb::List => list::list(options, out),
        Verb::Inspect(args) => inspect::inspect(args, options, out),
        Verb::Contract(args) => contract::contract(args, options, out),
        Verb::Check(args) => check::check(args, options, out),
        Verb::Seal(args) => seal::seal(args, options, out),
        Verb::Sign(args) => sign::sign(args, options, out),
        Verb::Call(args) => call::call(args, options, out),
        Verb::Pipe(args) => pipe::pipe(args, options, out),
        Verb::Run(args) => run::run(args, options, out),
        Verb::Config(args) => config::config(args, options, out),
        Verb::Doctor => doctor::doctor(options, out),
        Verb::Completions(args) => args::completions(args, out),
        Verb::Man(args) => args::man(args, out),
        Verb::TrialLoad(args) => trial_loads::load(args, options, out),
        Verb::TrialAbi(args) => trial_loads::abi(args, options, out),
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
        print_message(&line);
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
        .with_ansi(io::stderr().is_terminal() && output::colors_enabled())
        .init();
}
