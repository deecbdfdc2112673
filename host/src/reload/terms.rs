//! What the calls of a build will go by: its manifest, within its host.

use std::sync::Arc;
#[cfg(unix)]
use std::time::Instant;

use super::Workshop;
use super::candidate::Candidate;
use super::clamp::PluginLimits;
use crate::error::Error;
#[cfg(unix)]
use crate::error::{ErrorKind, LoadStep};
use crate::generation::{Parts, Terms};
#[cfg(unix)]
use crate::manifest::{Checker, Types};
use crate::pool::QueueLimits;
#[cfg(unix)]
use crate::supervisor::Capabilities;
use crate::sync::deadline_in;

pub(super) fn terms(workshop: &Workshop, candidate: &Candidate, limits: &PluginLimits) -> Terms {
    let host = &workshop.limits;
    Terms {
        queue: QueueLimits {
            places: limits.queue as usize,
            outside: host.place_waiters_max as usize,
            replaced: host.abandoned_max,
        },
        queue_age_max: host.queue_age_max,
        deadline_max: limits.deadline,
        deadline_default: workshop.deadline_default,
        in_flight_max: limits.in_flight,
        in_flight: Arc::default(),
        memory_bytes_max: limits.memory_bytes,
        input_bytes_max: limits.input_bytes,
        permissions: candidate.granted.clone(),
        withheld: candidate.withheld(),
        input_schema: None,
        types: Arc::default(),
    }
}

/// Holds config and calls against what a program says of them. Where the manifest has a schema
/// for the input itself, that one counts.
#[cfg(unix)]
pub(super) fn check_declared(
    candidate: &Candidate,
    capabilities: &Capabilities,
    parts: &mut Parts,
    deadline: Instant,
) -> Result<(), Error> {
    let deadline = Some(deadline);
    check_declared_config(candidate, capabilities, deadline)?;
    if let (None, Some(schema)) = (&parts.terms.input_schema, &capabilities.input_schema) {
        let input_schema = Some(Arc::new(declared(candidate, "inputSchema", schema, deadline)?));
        parts.terms = Arc::new(Terms { input_schema, ..Terms::clone(&parts.terms) });
    }
    let mut types = Types::default();
    for offered in &capabilities.types {
        if let Some(schema) = &offered.schema {
            let names = [&offered.name].into_iter().chain(&offered.aliases);
            types.add(names, declared(candidate, &offered.name, schema, deadline)?);
        }
    }
    if !types.is_empty() {
        parts.terms = Arc::new(Terms { types: Arc::new(types), ..Terms::clone(&parts.terms) });
    }
    Ok(())
}

/// Holds the config against what a program says of it.
#[cfg(unix)]
pub(super) fn check_declared_config(
    candidate: &Candidate,
    capabilities: &Capabilities,
    deadline: Option<Instant>,
) -> Result<(), Error> {
    let Some(schema) = &capabilities.config_schema else { return Ok(()) };
    let checker = declared(candidate, "configSchema", schema, deadline)?;
    checker.check(candidate.manifest.config(), deadline).map_err(|unfit| {
        let failed = candidate.failed(LoadStep::Config, ErrorKind::Config);
        failed.caused_by(format!("`config` does not fit what the program wants: {unfit}"))
    })
}

#[cfg(unix)]
fn declared(
    candidate: &Candidate,
    what: &str,
    schema: &serde_json::Value,
    deadline: Option<Instant>,
) -> Result<Checker, Error> {
    Checker::new(schema, deadline).map_err(|unfit| {
        let failed = candidate.failed(LoadStep::Capabilities, ErrorKind::Start);
        failed.caused_by(format!("its capabilities: `{what}`: {unfit}"))
    })
}

/// Checks the config, and has calls checked from here on if there is a schema for their input.
pub(super) fn check_schemas(
    workshop: &Workshop,
    candidate: &Candidate,
    parts: &mut Parts,
) -> Result<(), Error> {
    let deadline = deadline_in(workshop.limits.start_wait_max);
    if let Some(checker) = candidate.check_schemas(&workshop.rules, Some(deadline))? {
        let input_schema = Some(Arc::new(checker));
        parts.terms = Arc::new(Terms { input_schema, ..Terms::clone(&parts.terms) });
    }
    Ok(())
}
