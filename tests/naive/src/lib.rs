//! The interface between the naive host and its plugins, as abi_stable's own examples write it.
//!
//! Two later builds add an optional field to the module. Each fits a host that knows neither.

#![allow(
    missing_docs,
    missing_debug_implementations,
    non_local_definitions,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::allow_attributes_without_reason,
    reason = "most of it is written by abi_stable's macros"
)]

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_trait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RBox, RString};

#[sabi_trait]
pub trait Greeter: Send + Sync {
    fn greet(&self) -> RString;
}

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = RootRef)))]
#[sabi(missing_field(panic))]
pub struct Root {
    pub version: extern "C" fn() -> u32,
    #[sabi(last_prefix_field)]
    pub greeter: extern "C" fn() -> Greeter_TO<'static, RBox<()>>,
    #[cfg(feature = "first")]
    pub extra: u32,
    #[cfg(all(feature = "second", not(feature = "first")))]
    pub extra: u64,
}

impl RootModule for RootRef {
    abi_stable::declare_root_module_statics! {RootRef}

    const BASE_NAME: &'static str = "naive";
    const NAME: &'static str = "naive";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}
