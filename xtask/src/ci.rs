//! `cargo xtask ci`: what CI runs, step by step; the first failure ends it.
//! Each step is a command that can be run alone, and its heading says which.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{demo, test, tidy};
use hotbay_build::{Workspace, cargo};

/// One step: its name, the command to run it alone, and what it does.
struct Step {
    name: &'static str,
    alone: &'static str,
    act: fn(&Workspace) -> anyhow::Result<()>,
}

/// From cheap to dear, so that a slip is told early.
const STEPS: &[Step] = &[
    Step { name: "fmt", alone: "cargo fmt --all --check", act: fmt },
    Step { name: "tidy", alone: "cargo xtask tidy", act: tidy::run },
    Step {
        name: "clippy",
        alone: "cargo clippy --workspace --all-targets --features hotbay/cli,hotbay/tower -- -D warnings",
        act: clippy,
    },
    Step {
        name: "test",
        alone: "cargo xtask test",
        act: |workspace| test::run(workspace, &test::Options::all()),
    },
    Step {
        name: "docs",
        alone: "RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --features hotbay/cli,hotbay/tower",
        act: docs,
    },
    Step {
        name: "demo",
        alone: "cargo xtask demo",
        act: |workspace| demo::run(workspace, &demo::Options::readme()),
    },
];

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let mut outcome = Ok(());
    for step in STEPS {
        println!("\n== {}: {}", step.name, step.alone);
        let start = Instant::now();
        outcome = (step.act)(workspace)
            .with_context(|| format!("step `{}` failed; run it alone: {}", step.name, step.alone));
        times.push(start.elapsed());
        if outcome.is_err() {
            break;
        }
    }
    println!("\n{}", table(&times, outcome.is_ok()));
    outcome
}

/// A line per step: what it came to, and its seconds.
fn table(times: &[Duration], well: bool) -> String {
    let mut text = String::from("step     seconds");
    for (at, step) in STEPS.iter().enumerate() {
        let line = match times.get(at) {
            Some(time) if well || at + 1 < times.len() => {
                format!("{:<8} {:>7.1}", step.name, time.as_secs_f64())
            }
            Some(time) => format!("{:<8} {:>7.1}  failed", step.name, time.as_secs_f64()),
            None => format!("{:<8} {:>7}  not run", step.name, "-"),
        };
        text.push('\n');
        text.push_str(&line);
    }
    text
}

fn fmt(workspace: &Workspace) -> anyhow::Result<()> {
    cargo::run(cargo::cargo(&workspace.root).args(["fmt", "--all", "--check"]))
}

fn clippy(workspace: &Workspace) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    // Not all features: those that link plugins as ordinary crates want a call of their own.
    command.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "hotbay/cli,hotbay/tower",
    ]);
    cargo::run(command.args(["--", "-D", "warnings"]))
}

fn docs(workspace: &Workspace) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["doc", "--workspace", "--no-deps", "--features", "hotbay/cli,hotbay/tower"]);
    cargo::run(command.env("RUSTDOCFLAGS", "-Dwarnings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_failed_and_skipped_steps() {
        let times = [Duration::from_millis(1540), Duration::from_secs(20)];
        let text = table(&times, false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "fmt          1.5");
        assert_eq!(lines[2], "tidy        20.0  failed");
        assert_eq!(lines[3], "clippy         -  not run");
        assert_eq!(lines.len(), 1 + STEPS.len());
    }
}
