//! Libraries with random damage: the digest check refuses each one before it is opened.

use std::fs;
use std::os::unix::fs::FileExt;

use hotbay::{ErrorKind, LoadStep};
use hotbay_tests::{Plugins, host, library_file_name, loaded, mappings, refused, unique};

/// Enough to hit every kind of table; some would crash a loader.
const DAMAGED: u32 = 200;

/// A pseudorandom generator (SplitMix64) with a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[test]
fn damaged_libraries_are_refused_by_digest() {
    let plugins = Plugins::new();
    let name = unique("mutant");
    let folder = plugins.add(&name, "faulty").write();
    let file = folder.join(library_file_name("faulty"));
    let library = fs::OpenOptions::new().read(true).write(true).open(&file);
    let library = library.expect("a library");
    let length = library.metadata().expect("a length").len();
    let host = host(&plugins);
    let mut random = Random(42);
    for number in 0..DAMAGED {
        // Hits headers and tables at the front more often.
        let within = if number % 2 == 0 { 64 << 10 } else { length };
        let places: Vec<_> = (0..=random.below(8)).map(|_| random.below(within)).collect();
        let mut before = Vec::new();
        for place in places {
            let mut byte = [0];
            library.read_exact_at(&mut byte, place).expect("a byte");
            before.push((place, byte));
            let other = byte[0] ^ (1 << random.below(8));
            library.write_all_at(&[other], place).expect("the library can be written");
        }
        // Two flips of one bit would cancel out.
        let now = before.iter().map(|(place, _)| place);
        let unique: std::collections::HashSet<_> = now.collect();
        if unique.len() == before.len() {
            let error = refused(&host, &folder);
            let message = error.full_message();
            let expected = (ErrorKind::Integrity, Some(LoadStep::Digest));
            assert_eq!((error.kind(), error.step()), expected, "mutant {number}: {message}");
        }
        for (place, byte) in before.into_iter().rev() {
            library.write_all_at(&byte, place).expect("the library can be written");
        }
    }
    assert_eq!(mappings(&name), 0);
    // The original loads.
    loaded(&host, &folder);
}
