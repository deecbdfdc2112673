//! `cargo xtask features`: checks that the host compiles without warnings with every combination of
//! its default features, and with each other feature alone, and tests it without features.

use hotbay_build::{Workspace, cargo};

/// The default features, of which every subset is checked.
const DEFAULT: [&str; 3] = ["process", "schema", "watch"];

/// The other features.
const OTHERS: [&str; 6] = ["conformance", "fuzz", "metrics", "runner", "serde", "tower"];

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let subsets = (0..1 << DEFAULT.len()).map(|subset: u32| {
        let is_in = |at: &usize| subset & (1 << at) != 0;
        (0..DEFAULT.len()).filter(is_in).map(|at| DEFAULT[at]).collect::<Vec<_>>().join(",")
    });
    for features in subsets.chain(OTHERS.map(str::to_owned)) {
        println!("features: {}", if features.is_empty() { "none" } else { &features });
        let mut command = cargo::cargo(&workspace.root);
        command.args([
            "clippy",
            "--quiet",
            "--package",
            "hotbay",
            "--lib",
            "--no-default-features",
        ]);
        cargo::run(command.args(["--features", &features, "--", "-D", "warnings"]))?;
    }
    let mut command = cargo::cargo(&workspace.root);
    command.args(["test", "--quiet", "--package", "hotbay", "--no-default-features"]);
    cargo::run(command.args(["--test", "without_features"]))
}
