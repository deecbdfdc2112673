//! What can be written on the command line, with the texts of `--help`. Does nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::deadline::duration;

/// Loads plugins, tries them out and checks them.
///
/// A plugin is a folder with a `plugin.json` and the library that it names.
#[derive(Debug, Parser)]
#[command(
    name = "hotbay",
    version,
    arg_required_else_help = true,
    after_long_help = "Examples:\n  \
        cargo xtask build-plugins              build and install the example plugins\n  \
        hotbay list                            what is there, and what is wrong with it\n  \
        hotbay call transform --text hello     one call; prints HELLO\n  \
        echo hi | hotbay pipe transform        stdin through a plugin\n  \
        hotbay run --watch                     stay up, swap plugins as they change\n  \
        hotbay check my-plugins                load everything for real, for CI\n\n\
        Exit codes: 0 all is well, 1 something failed, 2 wrong usage."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Folder below which plugins are looked for; may be given more than once [default:
    /// target/plugins if it is there, otherwise plugins].
    #[arg(long = "dir", value_name = "DIR", global = true)]
    pub(crate) dirs: Vec<PathBuf>,
    /// Prints results, and errors too, as JSON on stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Accepts libraries whose manifests state no digest. A damaged one can end this process.
    #[arg(long, global = true)]
    pub(crate) allow_unverified: bool,
    /// Accepts folders and files that other users may write to.
    #[arg(long, global = true)]
    pub(crate) allow_writable: bool,
    /// Leaves the private copies of libraries in folders named hotbay-kept-… of TMPDIR when it
    /// exits, for profilers and core dumps. While it runs they are there anyway.
    #[arg(long, global = true)]
    pub(crate) keep_staged: bool,
    /// Shows the log on stderr; twice or three times: more of it.
    #[arg(short = 'v', global = true, action = clap::ArgAction::Count)]
    pub(crate) log: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lists what is there: name, version, kind, state, what is wrong.
    ///
    /// Reads manifests and the stamps of libraries only: runs nothing, and does not compute
    /// digests. Exits with 1 if anything is wrong.
    List,
    /// Tells everything about one plugin without running any of its code.
    ///
    /// Manifest, stamp, compiler, digest (stated and found), linked libraries, exported symbols,
    /// and whether it would be loaded. Exits with 1 if it would not.
    Inspect(Inspect),
    /// Loads every plugin for real, asks for its health, and shuts it down again.
    ///
    /// A library is also called from two further threads, with the sample or an empty input: what
    /// it binds to a thread shows there. An error that it returns is an answer; a panic is not.
    ///
    /// For CI of plugin authors. A library whose manifest states no digest is first loaded in a
    /// process of its own, so that one that crashes is a refusal and does not end the check; a
    /// missing digest alone is only noted.
    ///
    /// A program, in whatever language it is written, is held against every step of the protocol
    /// besides: how it tells what it can do, starts, answers (with and without the token, many
    /// at once, large, cut off, malformed) and ends. Each step is a line, with what was found
    /// and what was wanted.
    ///
    /// Exits with 1 on any problem, and when there is nothing to check.
    Check(Check),
    /// Writes digest and length of its library into a plugin's manifest.
    ///
    /// Keeps the layout of the file, and replaces it in one step. Prints the digest and the path
    /// of the library. The digest covers the library or program alone; what lies beside a program
    /// is checked by owner and mode at each start.
    Seal(Seal),
    /// Calls a plugin once and writes its reply to stdout, unchanged.
    ///
    /// The input is `--text`, `--input`, or stdin if it is no terminal. Only the plugin and what
    /// it requires are loaded. A line end is added on a terminal only.
    Call(Call),
    /// Sends stdin through plugins in a row and writes the last reply to stdout.
    ///
    /// With `--lines`, each line is a request of its own and each reply ends with a line end.
    /// Lines are worked on side by side and come out in their order; memory is bounded however
    /// many there are. A line that fails is told on stderr with its number, and the others go
    /// on, unless `--on-error` says otherwise; after 20 of them only their count is told, at the
    /// end. Exits with 1 if any line failed. Panics of a plugin quarantine it in other verbs;
    /// here each fails its line only.
    ///
    /// Ctrl-C, SIGTERM and SIGHUP end it early: what runs is finished, within 10 s, and written, what was
    /// not done is told, and it exits with 1; a second signal ends it at once. Progress is shown
    /// on stderr if that is a terminal and stdin and stdout are not.
    Pipe(Pipe),
    /// Starts every plugin, stays up, and tells what happens.
    ///
    /// With `--watch`, plugins are swapped as their files change; one whose new build is refused
    /// goes on as it was. With `--json`, each event is a line with a `timestamp`. Stops cleanly on
    /// Ctrl-C, SIGTERM and SIGHUP, and when nobody reads stdout any more; a second signal ends it at
    /// once. With `--metrics`, figures are served for Prometheus meanwhile. Exits with 1 if nothing could
    /// be loaded, unless it watches.
    Run(Run),
    #[command(hide = true)]
    TrialLoad(Trial),
    #[command(hide = true)]
    TrialAbi(Trial),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// A plugin's name, its folder, or its plugin.json.
    #[arg(value_name = "PLUGIN-OR-PATH")]
    pub(crate) plugin: String,
    /// Also opens the library, in a process of its own, and prints the long report of how its
    /// interface differs from this host's.
    #[arg(long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Where to look, instead of `--dir`; may also be the folder of one plugin.
    #[arg(value_name = "DIR", conflicts_with = "dirs")]
    pub(crate) places: Vec<PathBuf>,
    /// File whose bytes plugins are sent as a sample; programs get an empty input and others
    /// besides.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) input: Option<PathBuf>,
    /// The sample itself.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Seal {
    /// Folders that hold a plugin.json.
    #[arg(value_name = "FOLDER", required = true)]
    pub(crate) folders: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The plugin's name.
    pub(crate) plugin: String,
    /// File whose bytes are the input; `-` is stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) input: Option<PathBuf>,
    /// The input itself.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
    /// Calls this endpoint of a program instead of `execute`.
    #[arg(long, value_name = "NAME")]
    pub(crate) endpoint: Option<String>,
    /// Calls a program with this HTTP method instead of POST. With GET and HEAD there is no input
    /// unless one is named.
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// Sends a program this header too, such as 'Authorization: Bearer x'; may be given more than
    /// once.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Calls that many times; the last reply is printed, the time per call is told on stderr.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat: u64,
    /// How long each call may take, such as 50ms, 1.5s or 2m. A plugin that takes longer is not
    /// waited for.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
}

/// A header as curl takes it.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("expected NAME: VALUE, such as 'Authorization: Bearer x'; found no colon")?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pipe {
    /// The plugins' names, in the order in which they are called.
    #[arg(value_name = "PLUGIN", required = true)]
    pub(crate) plugins: Vec<String>,
    /// Makes each line a request.
    #[arg(long)]
    pub(crate) lines: bool,
    /// What becomes of a line that fails.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, requires = "lines")]
    pub(crate) on_error: OnError,
    /// How long each plugin may take for an answer, such as 50ms, 1.5s or 2m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
}

/// What becomes of a line that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// It has no line in the output.
    #[default]
    Skip,
    /// It ends everything; the lines before it are written. Those after it may have been sent to
    /// plugins already, but their replies are dropped.
    Stop,
    /// It is itself written in its place, so that line numbers stay in step; an empty line if it
    /// was too long to be read.
    Keep,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Swaps plugins as their files change, and loads those that come.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Looks for changes every N milliseconds instead of being told by the system, which tells
    /// nothing of network file systems.
    #[arg(
        long,
        value_name = "N",
        requires = "watch",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) poll_ms: Option<u64>,
    /// Serves figures for Prometheus at http://ADDR/metrics, such as 127.0.0.1:9464; port 0
    /// takes a free one. The address is told on stderr.
    ///
    /// Nobody is asked for a password: an address that is not of this machine alone shows the
    /// names and figures of the plugins to whoever reaches it.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// What the command asks of itself, in a process of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Trial {
    pub(crate) folder: PathBuf,
}
