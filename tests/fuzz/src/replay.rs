//! Runs targets on the corpus and on mutants of it. Needs neither nightly nor libFuzzer, and finds less.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::{DAMAGES, Mutation, Target};

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of inputs of a target.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    /// Files of the corpus.
    pub seeds: usize,
    /// Mutants of them.
    pub mutants: usize,
}

/// Runs `target` on each file in `corpus`, and then on `mutants` mutants, or for `time` if that is longer.
///
/// # Errors
///
/// Fails if the corpus is empty or cannot be read.
///
/// # Panics
///
/// Panics if the target does.
pub fn replay(
    target: Target,
    corpus: &Path,
    mutants: usize,
    time: Duration,
) -> io::Result<Replayed> {
    let mut paths: Vec<_> =
        fs::read_dir(corpus)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    // The order of a folder differs between systems.
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(fs::read).collect::<io::Result<_>>()?;
    if seeds.is_empty() {
        return Err(io::Error::other("the corpus is empty"));
    }
    seeds.iter().for_each(|seed| target(seed));
    let mut mutation = Mutation::new(SEED);
    let start = Instant::now();
    let mut count = 0;
    while count < mutants || start.elapsed() < time {
        let (one, other) = (&seeds[count % seeds.len()], &seeds[count / 7 % seeds.len()]);
        let mutant = match count / seeds.len() % (DAMAGES.len() + 1) {
            0 => mutation.splice(one, other),
            damage => mutation.of(one, damage),
        };
        target(&mutant);
        count += 1;
    }
    Ok(Replayed { seeds: seeds.len(), mutants: count })
}
