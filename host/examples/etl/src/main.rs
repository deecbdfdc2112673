//! Loads a CSV file into a store: each row passes the steps, which are plugins, and is stored by the
//! plugin `storage`. A load that was stopped or killed continues where it was.

#![allow(clippy::print_stdout, reason = "an example prints its results")]

mod load;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use hotbay::Host;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use load::{End, Load};

/// The exit code after a signal, as shells report it for SIGINT.
const STOPPED: u8 = 130;

/// Loads a CSV file into a store through plugins. Run it again to continue after a stop.
#[derive(Debug, Parser)]
struct Options {
    /// The configuration of the host and its plugins.
    config: PathBuf,
    /// The CSV file, with the names of the columns in the first line.
    file: PathBuf,
    /// The plugins that each row passes, in this order.
    #[arg(long, value_delimiter = ',', default_value = "validate,tz-rules")]
    steps: Vec<String>,
    /// Rows that are processed and stored together.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    batch: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A second signal ends the program at once, which loses nothing that was stored.
        flag::register_conditional_shutdown(signal, STOPPED.into(), Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    let host = Host::builder().config_file(&options.config).build()?;
    for refused in host.load_all().await.refused {
        eprintln!("{}", refused.error.full_message());
    }
    let bytes = std::fs::read(&options.file)
        .with_context(|| format!("cannot read `{}`", options.file.display()))?;
    // Calls run on this thread, which has nothing else to do.
    let load = Load::new(&host, &options.steps, options.batch as usize)?;
    let loaded = load.run(&bytes, &stop);
    host.shutdown(Duration::from_secs(5)).await;

    let (end, summary) = loaded?;
    println!("{summary}");
    Ok(match end {
        End::Complete => ExitCode::SUCCESS,
        End::Stopped => {
            println!("stopped; run the same command to continue");
            ExitCode::from(STOPPED)
        }
    })
}
