//! `cargo xtask ci`: runs the steps of CI, up to the first failure. The heading of each step shows its
//! command.

use std::io;
use std::time::{Duration, Instant};

use crate::{demo, docs, features, test, tidy};
use hotbay_build::{Hinted, Workspace, cargo, hint_of};

/// A step of CI.
struct Step {
    name: &'static str,
    /// The command that runs this step alone.
    command: &'static str,
    run: fn(&Workspace) -> anyhow::Result<()>,
}

/// From fast to slow, so that simple mistakes are reported early.
const STEPS: &[Step] = &[
    Step { name: "fmt", command: "cargo fmt --all --check", run: fmt },
    Step { name: "spelling", command: "typos", run: spelling },
    Step { name: "tidy", command: "cargo xtask tidy", run: tidy::run },
    Step {
        name: "clippy",
        command: "cargo clippy --workspace --all-targets --features hotbay/tower -- -D warnings",
        run: clippy,
    },
    Step { name: "features", command: "cargo xtask features", run: features::run },
    Step { name: "test", command: "cargo xtask test", run: test::run_watched },
    Step { name: "guide", command: "cargo xtask docs", run: docs::run },
    Step {
        name: "api docs",
        command: "RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --features hotbay/tower",
        run: api_docs,
    },
    Step {
        name: "demo",
        command: "cargo xtask demo",
        run: |workspace| demo::run(workspace, &demo::Options::readme()),
    },
];

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut times = Vec::new();
    let mut outcome = Ok(());
    for step in STEPS {
        println!("\n== {}: {}", step.name, step.command);
        let start = Instant::now();
        outcome = (step.run)(workspace).map_err(|error| {
            let message = format!("step `{}` failed", step.name);
            if hint_of(&error).is_some() {
                return error.context(message);
            }
            let hint = format!("run this step alone: `{}`", step.command);
            error.context(Hinted::new(message, hint))
        });
        times.push(start.elapsed());
        if outcome.is_err() {
            break;
        }
    }
    println!("\n{}", table(&times, outcome.is_ok()));
    outcome
}

/// Returns a line per step with its time and result.
fn table(times: &[Duration], passed: bool) -> String {
    let mut text = String::from("step     seconds");
    for (at, step) in STEPS.iter().enumerate() {
        let line = match times.get(at) {
            Some(time) if passed || at + 1 < times.len() => {
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

fn spelling(workspace: &Workspace) -> anyhow::Result<()> {
    let message = "the spelling check failed";
    let hint = "install `typos` with `pip install typos` or `cargo install typos-cli`";
    cargo::run(&mut cargo::typos(&workspace.root)).map_err(|error| {
        let was_started = !error.is::<io::Error>();
        if was_started { error.context(message) } else { error.context(Hinted::new(message, hint)) }
    })
}

fn clippy(workspace: &Workspace) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    // Not all features: those that link plugins as ordinary crates need a separate cargo call.
    command.args(["clippy", "--workspace", "--all-targets", "--features", "hotbay/tower"]);
    cargo::run(command.args(["--", "-D", "warnings"]))
}

fn api_docs(workspace: &Workspace) -> anyhow::Result<()> {
    let mut command = cargo::cargo(&workspace.root);
    command.args(["doc", "--workspace", "--no-deps", "--features", "hotbay/tower"]);
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
        assert_eq!(lines[2], "spelling    20.0  failed");
        assert_eq!(lines[3], "tidy           -  not run");
        assert_eq!(lines.len(), 1 + STEPS.len());
    }
}
