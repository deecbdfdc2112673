//! The second build of the naive host's plugin: its optional field has another type.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "written like the examples of abi_stable"
)]

use abi_stable::export_root_module;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RBox, RString};
use hotbay_naive::{Greeter, Greeter_TO, Root, RootRef};

#[export_root_module]
pub fn root() -> RootRef {
    Root { version: naive_version, greeter, extra: 2 }.leak_into_prefix()
}

#[unsafe(no_mangle)]
pub extern "C" fn naive_version() -> u32 {
    2
}

extern "C" fn greeter() -> Greeter_TO<'static, RBox<()>> {
    Greeter_TO::from_value(Greets, TD_Opaque)
}

struct Greets;

impl Greeter for Greets {
    fn greet(&self) -> RString {
        RString::from("hello")
    }
}
