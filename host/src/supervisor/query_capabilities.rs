//! Queries the capabilities of a program, by running its command `capabilities`.

use std::time::Duration;

use super::dialect::Capabilities;
use super::lines::Tail;
use super::program::Program;
use super::random::token;
use super::run_to_end::{RunToEnd, run_to_end};
use super::start::{NotStarted, launch, output_suffix};
use crate::error::LoadStep;

/// The command `capabilities` only prints, so it needs little time.
const CAPABILITIES_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CAPABILITIES_BYTES: usize = 1 << 20;

/// Queries the capabilities of a program.
pub(crate) async fn capabilities(program: &Program) -> Result<Capabilities, NotStarted> {
    let failed = |message: String| NotStarted::at(LoadStep::Capabilities, message);
    let tag = token().map_err(|error| failed(error.to_string()))?;
    let launch = launch(program, vec!["capabilities".into()], tag);
    let limit = program.limits.start_timeout.min(CAPABILITIES_TIMEOUT);
    match run_to_end(&launch, limit, MAX_CAPABILITIES_BYTES).await {
        RunToEnd::Exited { status, stdout, stderr } if status.success() => {
            Capabilities::parse(&stdout).map_err(|error| {
                let output = output_suffix(&tail_of(&stderr));
                let file = program.explain_file();
                let file = file.map_or_else(String::new, |cause| format!("; {cause}"));
                failed(format!(
                    "`capabilities` printed invalid capabilities: {error}{file}{output}"
                ))
            })
        }
        RunToEnd::Exited { status, stderr, .. } => {
            let why = program.explain_exit(status, &tail_of(&stderr));
            Err(failed(format!("the command `capabilities` failed: {why}")))
        }
        RunToEnd::TimedOut { stderr } => {
            let output = output_suffix(&tail_of(&stderr));
            let waited = limit.as_millis();
            Err(failed(format!("`capabilities` did not exit within {waited} ms{output}")))
        }
        RunToEnd::TooMuchOutput { stderr } => {
            let (max, output) = (MAX_CAPABILITIES_BYTES, output_suffix(&tail_of(&stderr)));
            Err(failed(format!("`capabilities` printed more than {max} bytes{output}")))
        }
        RunToEnd::NotStarted(error) => Err(failed(program.explain_spawn_error(&error))),
    }
}

fn tail_of(stderr: &[u8]) -> Tail {
    let mut tail = Tail::default();
    for line in String::from_utf8_lossy(stderr).lines() {
        tail.push(line);
    }
    tail
}
