//! Makes the call policy of a build from its manifest and the host's limits.

use std::sync::Arc;
#[cfg(all(unix, feature = "process"))]
use std::time::Instant;

#[cfg(all(unix, feature = "process"))]
use hotbay_manifest::{Checker, SchemaError, Types};
#[cfg(all(unix, feature = "process"))]
use hotbay_process::Capabilities;

use super::LoaderContext;
use super::candidate::Candidate;
use super::effective_limits::PluginLimits;
use super::schema_check::run_check;
use crate::error::Error;
#[cfg(all(unix, feature = "process"))]
use crate::error::{ErrorKind, LoadStep};
use crate::generation::{CallPolicy, Parts};
use crate::worker::QueueLimits;

pub(super) fn call_policy(
    context: &LoaderContext,
    candidate: &Candidate,
    limits: &PluginLimits,
) -> CallPolicy {
    let host = &context.limits;
    CallPolicy {
        queue: QueueLimits {
            max_queued: limits.queue as usize,
            max_waiting_for_space: host.max_queue_waiters as usize,
            max_replaced: host.max_abandoned_calls,
        },
        queue_timeout: host.queue_timeout,
        max_deadline: limits.deadline,
        default_deadline: context.default_deadline,
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

/// Validates config and calls against the schemas that a program declares. A schema of the
/// manifest for the input takes precedence.
#[cfg(all(unix, feature = "process"))]
pub(super) fn check_declared(
    context: &LoaderContext,
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
    let needs_input = parts.policy.input_schema.is_none();
    let capabilities = capabilities.clone();
    let (input, types) = run_check(context, candidate, move |candidate, deadline| {
        declared_schemas(candidate, &capabilities, needs_input, deadline)
    })?;
    if input.is_some() || !types.is_empty() {
        let input_schema = input.map(Arc::new).or_else(|| parts.policy.input_schema.clone());
        let types = Arc::new(types);
        parts.policy =
            Arc::new(CallPolicy { input_schema, types, ..CallPolicy::clone(&parts.policy) });
    }
    Ok(())
}

/// Validates the config; returns the checkers of calls.
#[cfg(all(unix, feature = "process"))]
fn declared_schemas(
    candidate: &Candidate,
    capabilities: &Capabilities,
    needs_input: bool,
    deadline: Instant,
) -> Result<(Option<Checker>, Types), Error> {
    let deadline = Some(deadline);
    check_declared_config(candidate, capabilities, deadline)?;
    let input = capabilities.input_schema.as_ref().filter(|_| needs_input);
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

/// Validates the config against the schema that the program declares.
#[cfg(all(unix, feature = "process"))]
pub(super) fn check_declared_config(
    candidate: &Candidate,
    capabilities: &Capabilities,
    deadline: Option<Instant>,
) -> Result<(), Error> {
    let Some(schema) = &capabilities.config_schema else { return Ok(()) };
    let checker = declared(candidate, "configSchema", schema, deadline)?;
    checker.check(candidate.manifest.config(), deadline).map_err(|error| {
        let failed = candidate.failed(LoadStep::Config, ErrorKind::Config);
        let failed = failed.with_optional_hint(error.hint());
        failed.caused_by(format!("`config` does not match the program's schema: {error}"))
    })
}

#[cfg(all(unix, feature = "process"))]
fn declared(
    candidate: &Candidate,
    what: &str,
    schema: &serde_json::Value,
    deadline: Option<Instant>,
) -> Result<Checker, Error> {
    Checker::new(schema, deadline).map_err(|error| {
        let kind = match error {
            SchemaError::Exceeded(_) => ErrorKind::Config,
            _ => ErrorKind::StartFailed,
        };
        let failed = candidate.failed(LoadStep::Capabilities, kind);
        let failed = failed.with_optional_hint(error.hint());
        failed.caused_by(format!("its capabilities have an invalid `{what}`: {error}"))
    })
}

/// Validates the config, and sets the input schema of calls if there is one.
pub(super) fn check_schemas(
    context: &LoaderContext,
    candidate: &Candidate,
    parts: &mut Parts,
) -> Result<(), Error> {
    if candidate.manifest.schemas().iter().all(|(_, schema)| schema.is_none()) {
        return Ok(());
    }
    let rules = context.rules.clone();
    let checker = run_check(context, candidate, move |candidate, deadline| {
        candidate.check_schemas(&rules, Some(deadline))
    })?;
    if let Some(checker) = checker {
        let input_schema = Some(Arc::new(checker));
        parts.policy = Arc::new(CallPolicy { input_schema, ..CallPolicy::clone(&parts.policy) });
    }
    Ok(())
}
