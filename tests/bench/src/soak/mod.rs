//! `cargo xtask soak`: reloads of a plugin under load for a long time, and killed processes,
//! checking for losses, waits, growth and leftovers. Each soak runs in a subprocess.

mod flood;
mod goals;
mod kills;
mod large;
mod late;
mod load;
mod mutants;
mod orphans;
mod pause;
mod swapper;
mod swaps;
mod tasks;
mod waits;

pub(crate) use orphans::host as host_until_killed;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};

use crate::process;
use crate::table::Report;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The soaks to run; all by default.
    which: Vec<Soak>,
    /// Number of swaps, mutants, calls or seconds; each soak has its own default.
    #[arg(long)]
    count: Option<u64>,
    /// Uses small numbers, only to check that the soaks work.
    #[arg(long)]
    quick: bool,
    /// Prints tables as Markdown.
    #[arg(long)]
    markdown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Soak {
    /// No call fails, none is lost, and nothing stays in memory.
    Swaps,
    /// Memory does not grow with the size of the swapped libraries.
    Large,
    /// Callers do not wait for a swap.
    Waits,
    /// No state is lost in a pause.
    Pause,
    /// Damaged libraries are refused.
    Mutants,
    /// Calls that exceed their deadlines and return late.
    Late,
    /// Tasks of pools that keep ending; the count is in seconds.
    Tasks,
    /// Processes of plugins that are killed during calls.
    Kills,
    /// Hosts that are killed while their plugins run.
    Orphans,
    /// A plugin that prints endlessly; the count is in MiB to each of its pipes.
    Flood,
}

impl Soak {
    fn count(self, options: &Options) -> u64 {
        let (full, quick) = match self {
            Self::Swaps => (10_000, 200),
            Self::Large => (200, 20),
            Self::Waits | Self::Pause => (1_000, 50),
            Self::Mutants => (2_000, 50),
            Self::Late => (10_000, 200),
            Self::Tasks => (60, 2),
            Self::Kills => (500, 20),
            Self::Orphans => (50, 3),
            Self::Flood => (1024, 16),
        };
        options.count.unwrap_or(if options.quick { quick } else { full })
    }
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let soaks = match &options.which[..] {
        [soak] => return one(*soak, options),
        [] => Soak::value_variants(),
        some => some,
    };
    let mut failed = Vec::new();
    for soak in soaks {
        let name = soak.to_possible_value();
        let name = name.map_or_else(String::new, |name| name.get_name().to_owned());
        let mut arguments = vec!["soak".to_owned(), name.clone()];
        arguments.extend(options.count.map(|count| format!("--count={count}")));
        arguments.extend(options.quick.then(|| "--quick".to_owned()));
        arguments.extend(options.markdown.then(|| "--markdown".to_owned()));
        let status = process::this_program(&arguments)?.status()?;
        if !status.success() {
            failed.push(format!("`{name}` failed with {status}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join(", "));
    Ok(())
}

fn one(soak: Soak, options: &Options) -> anyhow::Result<()> {
    let report = Report::new(options.markdown);
    let count = soak.count(options);
    let is_met = match soak {
        Soak::Swaps => swaps::soak(count, &report)?,
        Soak::Large => large::soak(count, &report)?,
        Soak::Waits => waits::soak(count, &report)?,
        Soak::Pause => pause::soak(count, &report)?,
        Soak::Mutants => mutants::soak(count, options.quick, &report)?,
        Soak::Late => late::soak(count, &report)?,
        Soak::Tasks => tasks::soak(count, &report)?,
        Soak::Kills => kills::soak(count, &report)?,
        Soak::Orphans => orphans::soak(count, &report)?,
        Soak::Flood => flood::soak(count, &report)?,
    };
    if !is_met {
        bail!("a goal was missed");
    }
    Ok(())
}
