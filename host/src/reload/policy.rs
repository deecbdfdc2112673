//! What the calls of a build will go by: its manifest, within its host.

use std::sync::Arc;
#[cfg(unix)]
use std::time::Instant;

use super::LoaderContext;
use super::candidate::Candidate;
use super::effective_limits::PluginLimits;
use super::schema_check::within_start;
use crate::error::Error;
#[cfg(unix)]
use crate::error::manifest::SchemaError;
#[cfg(unix)]
use crate::error::{ErrorKind, LoadStep};
use crate::generation::{CallPolicy, Parts};
#[cfg(unix)]
use crate::manifest::{Checker, Types};
use crate::pool::QueueLimits;
#[cfg(unix)]
use crate::supervisor::Capabilities;

pub(super) fn call_policy(
    workshop: &LoaderContext,
    candidate: &Candidate,
    limits: &PluginLimits,
) -> CallPolicy {
    let host = &workshop.limits;
    CallPolicy {
        queue: QueueLimits {
            max_queued: limits.queue as usize,
            max_waiting_for_space: host.max_queue_waiters as usize,
            max_replaced: host.max_abandoned_calls,
        },
        queue_timeout: host.queue_timeout,
        deadline_max: limits.deadline,
        default_deadline: workshop.default_deadline,
        max_in_flight: limits.in_flight,
        in_flight: Arc::default(),
        max_memory_bytes: limits.memory_bytes,
        max_input_bytes: limits.input_bytes,
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
    workshop: &LoaderContext,
    candidate: &Candidate,
    capabilities: &Capabilities,
    parts: &mut Parts,
) -> Result<(), Error> {
    let has_schemas = capabilities.config_schema.is_some()
        || capabilities.input_schema.is_some()
        || capabilities.types.iter().any(|offered| offered.schema.is_some());
    if !has_schemas {
        return Ok(());
    }
    let wants_input = parts.policy.input_schema.is_none();
    let capabilities = capabilities.clone();
    let (input, types) = within_start(workshop, candidate, move |candidate, deadline| {
        declared_schemas(candidate, &capabilities, wants_input, deadline)
    })?;
    if input.is_some() || !types.is_empty() {
        let input_schema = input.map(Arc::new).or_else(|| parts.policy.input_schema.clone());
        let types = Arc::new(types);
        parts.policy =
            Arc::new(CallPolicy { input_schema, types, ..CallPolicy::clone(&parts.policy) });
    }
    Ok(())
}

/// Checks the config; answers with what calls are checked by.
#[cfg(unix)]
fn declared_schemas(
    candidate: &Candidate,
    capabilities: &Capabilities,
    wants_input: bool,
    deadline: Instant,
) -> Result<(Option<Checker>, Types), Error> {
    let deadline = Some(deadline);
    check_declared_config(candidate, capabilities, deadline)?;
    let input = capabilities.input_schema.as_ref().filter(|_| wants_input);
    let input = input.map(|schema| declared(candidate, "inputSchema", schema, deadline));
    let mut types = Types::default();
    for offered in &capabilities.types {
        if let Some(schema) = &offered.schema {
            let names = [&offered.name].into_iter().chain(&offered.aliases);
            types.add(names, declared(candidate, &offered.name, schema, deadline)?);
        }
    }
    Ok((input.transpose()?, types))
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
        let failed = failed.with_optional_hint(unfit.hint());
        failed.caused_by(format!("`config` does not match the program's schema: {unfit}"))
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
        let kind = match unfit {
            SchemaError::Exceeded(_) => ErrorKind::Config,
            _ => ErrorKind::StartFailed,
        };
        let failed = candidate.failed(LoadStep::Capabilities, kind);
        let failed = failed.with_optional_hint(unfit.hint());
        failed.caused_by(format!("its capabilities: `{what}`: {unfit}"))
    })
}

/// Checks the config, and has calls checked from here on if there is a schema for their input.
pub(super) fn check_schemas(
    workshop: &LoaderContext,
    candidate: &Candidate,
    parts: &mut Parts,
) -> Result<(), Error> {
    if candidate.manifest.schemas().iter().all(|(_, schema)| schema.is_none()) {
        return Ok(());
    }
    let rules = workshop.rules.clone();
    let checker = within_start(workshop, candidate, move |candidate, deadline| {
        candidate.check_schemas(&rules, Some(deadline))
    })?;
    if let Some(checker) = checker {
        let input_schema = Some(Arc::new(checker));
        parts.policy = Arc::new(CallPolicy { input_schema, ..CallPolicy::clone(&parts.policy) });
    }
    Ok(())
}
