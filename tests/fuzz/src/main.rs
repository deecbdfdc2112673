//! `replay [TARGET] [SECONDS]`: runs all targets, or one, on mutants of the corpus for a time.

#![allow(clippy::print_stdout, reason = "the command prints results on stdout")]

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use hotbay_fuzz::{TARGETS, replay};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let only = arguments.next().unwrap_or_default();
    let seconds: u64 = arguments.next().map_or(Ok(1), |seconds| seconds.parse())?;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS.iter().filter(|(name, _)| only.is_empty() || *name == only) {
        let replayed = replay(*target, &corpus.join(name), 0, Duration::from_secs(seconds))?;
        println!("{name}: {} files, {} mutants", replayed.seeds, replayed.mutants);
    }
    Ok(())
}
