//! Plugins linked into one program as ordinary crates. A separate cargo call builds that program: a
//! call that also builds the plugins would enable their exports.

#![allow(clippy::disallowed_methods, reason = "starts cargo")]

use std::env;
use std::process::Command;

#[test]
fn two_plugins_link_into_one_program() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tested = Command::new(cargo)
        .args(["test", "--package", "hotbay-linked", "--features", "linked"])
        .args(["--test", "linked", "--quiet"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo starts");
    let output_text = String::from_utf8_lossy(&tested.stdout);
    let errors = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{output_text}\n{errors}");
    assert!(output_text.contains("3 passed"), "{output_text}");
}
