//! Queries the capabilities of a program, by running its command `capabilities`.

use std::time::Duration;

use super::dialect::Capabilities;
use super::lines::Tail;
use super::program::Program;
use super::random::token;
use super::run_to_end::{RunToEnd, run_to_end};
use super::start::{NotStarted, launch, output_suffix};
use crate::error::{Diagnosis, LoadStep};

/// The command `capabilities` only prints, so it needs little time.
const CAPABILITIES_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CAPABILITIES_BYTES: usize = 1 << 20;

/// Queries the capabilities of a program.
pub(crate) async fn capabilities(program: &Program) -> Result<Capabilities, NotStarted> {
    let failed = |reason: Diagnosis| NotStarted::at(LoadStep::Capabilities, reason);
    let tag = token().map_err(|error| failed(error.to_string().into()))?;
    let launch = launch(program, vec!["capabilities".into()], tag);
    let limit = program.limits.start_timeout.min(CAPABILITIES_TIMEOUT);
    match run_to_end(&launch, limit, MAX_CAPABILITIES_BYTES).await {
        RunToEnd::Exited { status, stdout, stderr } if status.success() => {
            Capabilities::parse(&stdout).map_err(|error| {
                let output = output_suffix(&tail_of(&stderr));
                let (file, hint) = match program.explain_file() {
                    Some(Diagnosis { message, hint }) => (format!("; {message}"), hint),
                    None => (String::new(), error.hint.map(str::to_owned)),
                };
                let message =
                    format!("`capabilities` printed invalid capabilities: {error}{file}{output}");
                failed(Diagnosis { message, hint })
            })
        }
        RunToEnd::Exited { status, stderr, .. } => {
            let why = program.explain_exit(status, &tail_of(&stderr));
            Err(failed(why.map_message(|why| format!("the command `capabilities` failed: {why}"))))
        }
        RunToEnd::TimedOut { stderr } => {
            let output = output_suffix(&tail_of(&stderr));
            let waited = limit.as_millis();
            Err(failed(format!("`capabilities` did not exit within {waited} ms{output}").into()))
        }
        RunToEnd::TooMuchOutput { stderr } => {
            let (max, output) = (MAX_CAPABILITIES_BYTES, output_suffix(&tail_of(&stderr)));
            Err(failed(format!("`capabilities` printed more than {max} bytes{output}").into()))
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
