//! Runs each fuzz target on its corpus and on a fixed number of mutants.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use hotbay_fuzz::{TARGETS, replay};

const MUTANTS: usize = 2_000;

#[test]
fn targets_return_for_corpus_and_mutants() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let replayed = replay(*target, &corpus.join(name), MUTANTS, Duration::ZERO);
        let replayed = replayed.unwrap_or_else(|error| panic!("target {name}: {error}"));
        assert_eq!(replayed.mutants, MUTANTS);
    }
}

#[cfg(unix)]
#[test]
fn each_target_has_a_corpus_and_a_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let path = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().path();
        entries.map(|entry| path(entry).file_stem().unwrap().to_string_lossy().into()).collect()
    };
    let expected: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("corpus"), expected);
    assert_eq!(names("fuzz_targets"), expected);
}
