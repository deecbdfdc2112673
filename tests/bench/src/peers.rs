//! Other loaders of typed libraries. Their libraries are never closed.

use std::mem::ManuallyDrop;
use std::path::Path;

use bench_peers::{STABBY_SYMBOL, SavefileBench as _, StabbyBenchDyn as _, StabbyObject};
use savefile_abi::AbiConnection;

use crate::raw::open;

/// The plugin over stabby and savefile-abi.
pub(crate) struct Peers {
    stabby: StabbyObject,
    savefile: AbiConnection<dyn bench_peers::SavefileBench>,
}

impl Peers {
    pub(crate) fn load(file: &Path) -> anyhow::Result<Self> {
        let library = ManuallyDrop::new(open(file)?);
        // SAFETY: the library was built from the same crate, which declares the function so.
        let make = unsafe { library.get::<extern "C" fn() -> StabbyObject>(STABBY_SYMBOL) }?;
        let file = file.to_str().ok_or_else(|| anyhow::anyhow!("not UTF-8"))?;
        let savefile = AbiConnection::load_shared_library(file);
        let savefile = savefile.map_err(|error| anyhow::anyhow!("savefile-abi: {error:?}"))?;
        Ok(Self { stabby: make(), savefile })
    }

    #[inline]
    pub(crate) fn stabby_score(&self, a: f64, b: f64) -> f64 {
        self.stabby.score(a, b)
    }

    #[inline]
    pub(crate) fn stabby_length(&self, text: &str) -> u64 {
        self.stabby.length(text.into())
    }

    #[inline]
    pub(crate) fn savefile_score(&self, a: f64, b: f64) -> f64 {
        self.savefile.score(a, b)
    }

    #[inline]
    pub(crate) fn savefile_length(&self, text: &str) -> u64 {
        self.savefile.length(text)
    }
}
