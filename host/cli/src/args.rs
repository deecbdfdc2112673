//! The command line, with the text of `--help`, durations, completion scripts and man pages.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hotbay::ConfigFile;
use hotbay_build::new_plugin;
use jiff::SignedDuration;

use crate::Status;
use crate::failure::Failure;
use crate::output::Out;

/// The file that is read if `--config` is not given.
pub(crate) const DEFAULT_CONFIG: &str = "hotbay.toml";

/// The heading of the options that select which plugins are found and accepted.
const PLUGIN_OPTIONS: &str = "Plugin options";

/// Loads plugins, calls them, and checks them.
///
/// A plugin is a folder with a `plugin.json` and the library or program that it names.
#[derive(Debug, Parser)]
#[command(
    name = "hotbay",
    version,
    arg_required_else_help = true,
    after_long_help = "Examples:\n  \
        hotbay new greet                       create a plugin\n  \
        hotbay build greet                     build and install it\n  \
        hotbay list                            list plugins and their problems\n  \
        hotbay call greet --text you           call it once\n  \
        echo hi | hotbay pipe transform        send stdin through a plugin\n  \
        hotbay run --watch                     serve plugins, and reload them as they change\n  \
        hotbay check my-plugins                load and check all plugins, for CI\n  \
        hotbay config show                     print the configuration and its origins\n\n\
        Exit codes: 0 success, 1 failure, 2 invalid usage."
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The options of every verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Searches for plugins below this folder; may be repeated [default: target/plugins if it
    /// exists, otherwise plugins].
    #[arg(long = "dir", value_name = "DIR", global = true, help_heading = PLUGIN_OPTIONS)]
    pub(crate) dirs: Vec<PathBuf>,
    /// Reads the configuration of the host from this file [default: hotbay.toml, if it exists].
    #[arg(long, value_name = "FILE", global = true, help_heading = PLUGIN_OPTIONS)]
    pub(crate) config: Option<PathBuf>,
    /// The configuration, once it was read.
    #[arg(skip)]
    pub(crate) config_file: Option<ConfigFile>,
    /// Accepts plugins without a digest in their manifest. A damaged library can crash this process.
    #[arg(long, global = true, help_heading = PLUGIN_OPTIONS)]
    pub(crate) allow_unverified: bool,
    /// Accepts folders and files that other users may write to.
    #[arg(long, global = true, help_heading = PLUGIN_OPTIONS)]
    pub(crate) allow_writable: bool,
    /// Keeps the private copies of libraries when the command exits, in folders named hotbay-kept-…
    /// in TMPDIR, for profilers and core dumps.
    #[arg(long, global = true, help_heading = PLUGIN_OPTIONS)]
    pub(crate) keep_staged: bool,
    /// Prints results and errors as JSON on stdout.
    #[arg(long, global = true, display_order = 100)]
    pub(crate) json: bool,
    /// Prints the log to stderr; repeat for more detail.
    #[arg(short = 'v', global = true, display_order = 101, action = clap::ArgAction::Count)]
    pub(crate) log: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Creates a plugin that builds and passes its test.
    ///
    /// The plugin is a library crate, or with `--process` a program. It is not part of a workspace.
    New(new_plugin::Options),
    /// Builds plugins with cargo and installs each with its manifest.
    ///
    /// Writes the digest and length of the built library into the installed manifest. A program that
    /// needs no building, such as a script, is copied. Unless `--out` is given, plugins are installed
    /// in target/plugins of the current folder, where the other commands find them.
    Build(Build),
    /// Lists plugins: name, version, kind, state, problem.
    ///
    /// Reads only manifests and the stamps of libraries. Runs no plugin code and computes no digests.
    /// Exits with 1 if a plugin has a problem.
    List,
    /// Prints details of one plugin, without running its code.
    ///
    /// Prints the manifest, stamp, compiler, digest (expected and found), linked libraries and
    /// exported symbols, the contracts that it serves, and whether the plugin would load. Exits with 1
    /// if it would not.
    Inspect(Inspect),
    /// Prints the contracts of a plugin, or compares two versions of them.
    Contract(Contract),
    /// Loads every plugin, checks its health, and shuts it down again.
    ///
    /// A library is also called from two other threads, with the sample or an empty input, to find
    /// state that it binds to a thread. An error that the plugin returns is a valid reply; a panic
    /// is not.
    ///
    /// Meant for the CI of plugin authors. A library without a digest is first loaded in a separate
    /// process, so that a crash does not end the check.
    ///
    /// A program, in any language, is also tested against every step of the protocol: its
    /// capabilities, its start, its replies to valid and invalid requests, and its exit. Requests
    /// are sent with and without the token, concurrently, large, truncated and malformed. Each step
    /// is printed as a line with the found and expected results.
    ///
    /// Exits with 1 on any problem, and if no plugin was found.
    Check(Check),
    /// Writes the digest and length of a plugin's library or program into its manifest.
    ///
    /// Preserves the formatting of the manifest and replaces it atomically. Prints the digest and the
    /// path of the library. The digest covers only the library or program. For the other files of a
    /// program, owner and mode are checked at each start.
    Seal(Seal),
    /// Signs all files of a plugin, so that hosts accept only these.
    ///
    /// Writes the digests and lengths of all files in the folder as plugin.files.json, and their
    /// signature in the format of minisign as plugin.files.json.minisig. A signature that exists is
    /// replaced. Each plugin must be sealed, as `hotbay build` does. Hosts trust the public key with
    /// `keys` in hotbay.toml.
    ///
    /// A key with a password needs it from the terminal, from `--password-file`, or in the variable
    /// HOTBAY_KEY_PASSWORD. Keys of `minisign -G` can be used too.
    Sign(Sign),
    /// Calls a plugin once and writes its reply to stdout.
    ///
    /// The input is `--text`, `--input`, or stdin unless it is a terminal. Loads only this plugin and
    /// the plugins that it requires. Appends a newline only if stdout is a terminal.
    Call(Call),
    /// Sends stdin through a pipeline of plugins and writes the last reply to stdout.
    ///
    /// With `--lines`, each line is a request, and each reply ends with a newline. Lines run
    /// concurrently and keep their order; memory is bounded. A failed line is reported on stderr
    /// with its number. The others continue, unless `--on-error stop` is given. After 20 failed
    /// lines, only the number of further ones is printed, at the end. Exits with 1 if a line failed.
    /// A panic fails only its line, and does not quarantine the plugin.
    ///
    /// Ctrl-C, SIGTERM and SIGHUP stop it early: running calls have 10 s to finish, their replies
    /// are written, the remaining lines are counted, and it exits with 1. On a second signal, it
    /// exits at once. Progress is shown on stderr if it is a terminal and stdin and stdout are not.
    Pipe(Pipe),
    /// Loads all plugins, serves them, and prints events.
    ///
    /// With `--watch`, plugins are reloaded as their files change; if the new build fails, the old
    /// one keeps serving. With `--watch --dev`, edited scripts are sealed first. With `--json`, each event is a line with a `timestamp`. Stops cleanly on
    /// Ctrl-C, SIGTERM and SIGHUP, and when stdout is closed. On a second signal, it exits at once.
    /// With `--metrics`, serves metrics for Prometheus. Exits with 1 if no plugin could be loaded,
    /// unless `--watch` is given.
    Run(Run),
    /// Checks or prints the configuration of the host, hotbay.toml.
    Config(Config),
    /// Prints what this machine can enforce of the sandboxes of plugins.
    ///
    /// Each rule is enforced, partial or unavailable, with the reason. `hotbay inspect` prints the
    /// same for one plugin. Also prints the program that runs isolated libraries. Reads the folder of
    /// control groups and the path of that program from hotbay.toml.
    Doctor,
    /// Prints a completion script for a shell.
    ///
    /// For bash: `source <(hotbay completions bash)`.
    Completions(Completions),
    /// Prints the man page, or writes the man pages of all subcommands into a folder.
    Man(Man),
    #[command(hide = true)]
    TrialLoad(Trial),
    #[command(hide = true)]
    TrialAbi(Trial),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// Folders of plugins, or folders whose subfolders are plugins [default: the current folder].
    #[arg(value_name = "FOLDER")]
    pub(crate) folders: Vec<PathBuf>,
    /// The folder to install into; each plugin gets its own subfolder.
    #[arg(long, value_name = "DIR", default_value = "target/plugins")]
    pub(crate) out: PathBuf,
    /// Builds optimized and stripped artifacts.
    #[arg(long)]
    pub(crate) release: bool,
    /// Rebuilds plugins as they change, without debug information, until Ctrl-C.
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Reports the mistakes in the file, and what it names that does not exist.
    ///
    /// Reads only manifests and the stamps of libraries. Runs no plugin code. Exits with 1 if there is a
    /// mistake.
    Check,
    /// Prints the effective values, and the place that sets each.
    ///
    /// Values that contain a variable of the environment or the text of another file are not shown.
    Show,
    /// Prints the JSON Schema of the file, for editors.
    Schema,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    pub(crate) shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Writes a page for the command and one for each subcommand into this folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// The plugin's name, its folder, or its plugin.json.
    #[arg(value_name = "PLUGIN-OR-PATH")]
    pub(crate) plugin: String,
    /// Also opens the library, in a separate process, and prints how its interface differs from this
    /// host's.
    #[arg(long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Contract {
    #[command(subcommand)]
    pub(crate) verb: ContractVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContractVerb {
    /// Prints the contracts that a library serves, as text.
    ///
    /// The text is what `contract diff` and `check_golden` of the crate hotbay-plugin read. Runs no
    /// plugin code.
    Show(ContractShow),
    /// Compares the contracts of two versions, and finds breaking changes.
    ///
    /// A change is breaking if hosts with the new version cannot call plugins with the old one, or
    /// the other way round. It is compatible if they can, but arguments and results are converted,
    /// which is slower. Runs no plugin code.
    ///
    /// Exits with 1 if a change is breaking and the major version is not higher.
    Diff(ContractDiff),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ContractShow {
    /// The plugin's name, its folder, its library, or a text file.
    #[arg(value_name = "PLUGIN-OR-PATH")]
    pub(crate) plugin: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ContractDiff {
    /// The old version: a plugin's name, its folder, its library, or a text file.
    pub(crate) old: String,
    /// The new version.
    pub(crate) new: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Folders to search instead of `--dir`; may be the folder of one plugin.
    #[arg(value_name = "DIR", conflicts_with = "dirs")]
    pub(crate) folders: Vec<PathBuf>,
    /// A file whose bytes are sent to plugins as a sample input. Programs also get an empty input
    /// and other inputs.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) input: Option<PathBuf>,
    /// The sample as text.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Seal {
    /// Folders with a plugin.json.
    #[arg(value_name = "FOLDER", required = true)]
    pub(crate) folders: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// Folders with a plugin.json.
    #[arg(value_name = "FOLDER", required_unless_present = "new_key", requires = "key")]
    pub(crate) folders: Vec<PathBuf>,
    /// The file of the secret key.
    #[arg(long, value_name = "FILE", requires = "folders")]
    pub(crate) key: Option<PathBuf>,
    /// Creates a key pair instead: the secret key as this file, and the public key as the same with
    /// the extension `pub`. Replaces no file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "folders"])]
    pub(crate) new_key: Option<PathBuf>,
    /// Reads the password of the key from this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Creates a secret key without a password: every program that can read its file can sign.
    #[arg(long, requires = "new_key", conflicts_with_all = ["password_file", "key"])]
    pub(crate) no_password: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The plugin's name.
    pub(crate) plugin: String,
    /// A file whose bytes are the input; `-` is stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(crate) input: Option<PathBuf>,
    /// The input as text.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
    /// Calls this endpoint of a program instead of `execute`.
    #[arg(long, value_name = "NAME")]
    pub(crate) endpoint: Option<String>,
    /// Calls a program with this HTTP method instead of POST. The input of GET and HEAD is
    /// empty unless one is given.
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// Sends this header to a program, such as 'Authorization: Bearer x'; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Repeats the call N times; prints the last reply, and on stderr the time per call.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat: u64,
    /// The time limit of each call, such as 50ms, 1.5s or 2m; without one, calls run on the main
    /// thread, to which the manifest's `limits.deadline_ms` does not apply.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
}

/// Parses a header in the form that curl accepts.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("expected NAME: VALUE, such as 'Authorization: Bearer x'; found no colon")?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

#[derive(Debug, clap::Args)]
pub(crate) struct Pipe {
    /// The plugins' names, in the order of the calls.
    #[arg(value_name = "PLUGIN", required = true)]
    pub(crate) plugins: Vec<String>,
    /// Treats each line as a request.
    #[arg(long)]
    pub(crate) lines: bool,
    /// Selects what happens to a line that fails.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, requires = "lines")]
    pub(crate) on_error: OnError,
    /// The time limit of each plugin's reply, such as 50ms, 1.5s or 2m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
}

/// The policy for lines that fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnError {
    /// Writes nothing for the line.
    #[default]
    Skip,
    /// Stops. Replies to earlier lines are written. Later lines may already have been sent to
    /// plugins; their replies are dropped.
    Stop,
    /// Writes the input line instead of a reply, so that line numbers match; writes an empty line if
    /// it was too long to be read.
    Keep,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Reloads plugins as their files change, and loads new ones.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Seals programs, such as scripts, whenever they change, so that an edited one is swapped. For
    /// development: a user that can write to a folder then decides what runs. Skips folders that belong to
    /// other users.
    #[arg(long, requires = "watch")]
    pub(crate) dev: bool,
    /// Polls for changes every N milliseconds. Use it for network file systems whose changes the
    /// system does not report.
    #[arg(
        long,
        value_name = "N",
        requires = "watch",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) poll_ms: Option<u64>,
    /// Serves metrics for Prometheus at http://ADDR/metrics, such as 127.0.0.1:9464. Port 0 selects
    /// a free port. The address is printed on stderr.
    ///
    /// Requests are not authenticated: every machine that can reach the address can read the names
    /// and metrics of the plugins.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// The arguments of the hidden verbs, which the command runs itself in a separate process.
#[derive(Debug, clap::Args)]
pub(crate) struct Trial {
    pub(crate) folder: PathBuf,
    /// The name of the plugin if it is an additional instance, or an empty text.
    #[arg(default_value = "")]
    pub(crate) instance: String,
    /// The folder and instance of each plugin that it requires, in the same form.
    #[arg(long, num_args = 2, allow_hyphen_values = true)]
    pub(crate) required: Vec<OsString>,
}

/// Parses a duration longer than zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration =
        text.parse().map_err(|_| "expected a duration such as 50ms, 1.5s or 2m".to_owned())?;
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("expected a duration longer than zero".to_owned()),
    }
}

pub(crate) fn completions(args: &Completions, out: &mut Out) -> Result<Status, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "hotbay", &mut script);
    out.bytes(&script)?;
    Ok(Status::Success)
}

pub(crate) fn man(args: &Man, out: &mut Out) -> Result<Status, Failure> {
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(|error| failure(".", &error))?;
        out.bytes(&page)?;
        return Ok(Status::Success);
    };
    let shown = folder.display().to_string();
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|error| failure(&shown, &error))?;
    Ok(Status::Success)
}

fn failure(folder: &str, error: &std::io::Error) -> Failure {
    Failure::io(format!("cannot write man pages to `{folder}`"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_needs_unit_and_positive_value() {
        let check = |text, expected_us: Option<u64>| {
            assert_eq!(duration(text).ok(), expected_us.map(Duration::from_micros), "{text}");
        };
        check("50ms", Some(50_000));
        check("2s", Some(2_000_000));
        check("1.5s", Some(1_500_000));
        check("1m", Some(60_000_000));
        check("1m 30s", Some(90_000_000));
        check("0s", None);
        check("-1s", None);
        check("5", None);
        check("soon", None);
        check("", None);
    }
}
