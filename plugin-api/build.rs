//! Passes the compiler version and the target to the crate, for the stamp.
#![allow(clippy::disallowed_methods, reason = "runs the compiler to get its version")]

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=HOTBAY_TARGET={target}");
    println!("cargo::rustc-env=HOTBAY_RUSTC={}", rustc_version().unwrap_or_default());
}

/// Returns the output of `rustc --version`, without the line end.
fn rustc_version() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
