//! Asks a program what it can do, by running it for that alone.

use std::time::Duration;

use super::dialect::Capabilities;
use super::lines::Tail;
use super::program::Program;
use super::random::token;
use super::run_to_end::{RunToEnd, run_to_end};
use super::start::{NotStarted, launch, said};
use crate::error::LoadStep;

/// `capabilities` says what is known without doing anything.
const CAPABILITIES_WAIT_MAX: Duration = Duration::from_secs(10);
const CAPABILITIES_BYTES_MAX: usize = 1 << 20;

/// Asks a program what it can do.
pub(crate) async fn capabilities(program: &Program) -> Result<Capabilities, NotStarted> {
    let failed = |message: String| NotStarted::at(LoadStep::Capabilities, message);
    let tag = token().map_err(|error| failed(error.to_string()))?;
    let launch = launch(program, vec!["capabilities".into()], tag);
    let wait_max = program.limits.start_timeout.min(CAPABILITIES_WAIT_MAX);
    match run_to_end(&launch, wait_max, CAPABILITIES_BYTES_MAX).await {
        RunToEnd::Ended { status, stdout, stderr } if status.success() => {
            Capabilities::parse(&stdout).map_err(|wrong| {
                let said = said(&tail_of(&stderr));
                let file = program.what_is_wrong_with_it();
                let file = file.map_or_else(String::new, |why| format!("; {why}"));
                failed(format!("`capabilities` printed what is not expected: {wrong}{file}{said}"))
            })
        }
        RunToEnd::Ended { status, stderr, .. } => {
            let why = program.why_exited(status, &tail_of(&stderr));
            Err(failed(format!("`capabilities` failed: {why}")))
        }
        RunToEnd::TimedOut { stderr } => {
            let said = said(&tail_of(&stderr));
            let waited = wait_max.as_millis();
            Err(failed(format!("`capabilities` did not end within {waited} ms{said}")))
        }
        RunToEnd::TooMuch { stderr } => {
            let (most, said) = (CAPABILITIES_BYTES_MAX, said(&tail_of(&stderr)));
            Err(failed(format!("`capabilities` printed more than {most} bytes{said}")))
        }
        RunToEnd::NotStarted(error) => Err(failed(program.why_not_spawned(&error))),
    }
}

fn tail_of(stderr: &[u8]) -> Tail {
    let mut tail = Tail::default();
    for line in String::from_utf8_lossy(stderr).lines() {
        tail.push(line);
    }
    tail
}
