//! The first build of the naive host's plugin, which panics in every possible way.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "written like the examples of abi_stable"
)]

use std::panic::{catch_unwind, panic_any};

use abi_stable::export_root_module;
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RBox, RString};
use hotbay_naive::{Greeter, Greeter_TO, Root, RootRef};

#[export_root_module]
pub fn root() -> RootRef {
    Root { version: naive_version, greeter, extra: 1 }.leak_into_prefix()
}

#[unsafe(no_mangle)]
pub extern "C" fn naive_version() -> u32 {
    1
}

extern "C" fn greeter() -> Greeter_TO<'static, RBox<()>> {
    Greeter_TO::from_value(Panics, TD_Opaque)
}

struct Panics;

impl Greeter for Panics {
    fn greet(&self) -> RString {
        panic!("out of a method")
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn panic_out_of_c() -> u32 {
    panic!("out of a function of C")
}

#[unsafe(no_mangle)]
pub extern "C-unwind" fn panic_into_host() -> u32 {
    panic!("into the host")
}

#[unsafe(no_mangle)]
pub extern "C" fn panic_caught() -> u32 {
    u32::from(catch_unwind(|| panic!("caught inside")).is_err())
}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("a payload's drop")
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn panic_in_payload() -> u32 {
    // As in most code, the error and its payload are dropped here.
    u32::from(catch_unwind(|| panic_any(PanicOnDrop)).is_err())
}
