//! A plugin over stabby and over savefile-abi. Calls have no guards, counters or checks.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unused_qualifications,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    reason = "the macros of both generate items with these"
)]

use savefile_derive::savefile_abi_exportable;

/// The interface over stabby.
#[stabby::stabby(checked)]
pub trait StabbyBench {
    /// Adds two numbers.
    extern "C" fn score(&self, a: f64, b: f64) -> f64;
    /// Returns the length of a text.
    extern "C" fn length(&self, text: stabby::str::Str<'_>) -> u64;
}

/// The trait object of stabby.
pub type StabbyObject = stabby::dynptr!(stabby::boxed::Box<dyn StabbyBench + Send + Sync>);

/// The name of the function that returns the trait object of stabby.
pub const STABBY_SYMBOL: &[u8] = b"bench_stabby";

/// The interface over savefile-abi.
#[savefile_abi_exportable(version = 0)]
pub trait SavefileBench {
    /// Adds two numbers.
    fn score(&self, a: f64, b: f64) -> f64;
    /// Returns the length of a text.
    fn length(&self, text: &str) -> u64;
}

#[cfg(feature = "export")]
mod exported {
    use super::{SavefileBench, StabbyBench, StabbyObject};

    #[derive(Debug, Default)]
    pub(super) struct Sums;

    impl StabbyBench for Sums {
        extern "C" fn score(&self, a: f64, b: f64) -> f64 {
            a + b
        }

        extern "C" fn length(&self, text: stabby::str::Str<'_>) -> u64 {
            text.len() as u64
        }
    }

    impl SavefileBench for Sums {
        fn score(&self, a: f64, b: f64) -> f64 {
            a + b
        }

        fn length(&self, text: &str) -> u64 {
            text.len() as u64
        }
    }

    #[stabby::export]
    pub extern "C" fn bench_stabby() -> StabbyObject {
        stabby::boxed::Box::new(Sums).into()
    }

    savefile_derive::savefile_abi_export!(Sums, SavefileBench);
}
