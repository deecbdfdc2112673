//! What a build may do: its limits, bounded by the host's, its permissions, which the application
//! decides about at every load, and the call policy made of both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
#[cfg(all(unix, feature = "process"))]
use std::time::Instant;

#[cfg(all(unix, feature = "process"))]
use hotbay_manifest::Checker;
#[cfg(all(unix, feature = "process"))]
use hotbay_manifest::SchemaError;
#[cfg(all(unix, feature = "process"))]
use hotbay_manifest::Types;
use hotbay_manifest::{Kind, Limits};
#[cfg(all(unix, feature = "process"))]
use hotbay_process::Capabilities;

use super::candidate::Candidate;
use super::context::{LoaderContext, PermissionPolicy};
use super::schema_check::run_check;
use super::schemas::Schemas;
use super::settings::PluginSettings;
use crate::config::HostLimits;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::{Backend, CallPolicy, Parts};
use crate::panic::catch_fault;
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
        max_open_streams: limits.open_streams,
        max_stream_threads: host.max_stream_threads,
        max_memory_bytes: limits.memory_bytes,
        max_call_memory_bytes: limits.call_memory_bytes,
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
        let error = candidate.without_secrets(error);
        let failed = candidate.failed(LoadStep::Config, ErrorKind::Config);
        let failed = failed.with_optional_hint(error.hint());
        let problem = match error {
            SchemaError::Value(_) => "`config` does not match the program's schema",
            _ => "cannot validate `config` against the program's schema",
        };
        failed.caused_by(format!("{problem}: {error}"))
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
        failed.caused_by(format!("cannot use `{what}` of its capabilities: {error}"))
    })
}

/// Validates the config, and sets the input schema of calls if there is one.
pub(super) fn check_schemas(
    context: &LoaderContext,
    candidate: &Candidate,
    schemas: Schemas,
    parts: &mut Parts,
) -> Result<(), Error> {
    if schemas.is_empty() {
        return Ok(());
    }
    let input_schema = context.checked_schemas.check(candidate, schemas, |schemas| {
        run_check(context, candidate, move |candidate, deadline| {
            schemas.check(candidate, Some(deadline))
        })
    })?;
    if input_schema.is_some() {
        parts.policy = Arc::new(CallPolicy { input_schema, ..CallPolicy::clone(&parts.policy) });
    }
    Ok(())
}

/// The limits of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginLimits {
    pub(crate) workers: u32,
    pub(crate) queue: u32,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) stack_bytes: u64,
    pub(crate) in_flight: Option<u32>,
    pub(crate) open_streams: u32,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) call_memory_bytes: Option<u64>,
    pub(crate) deadline: Option<Duration>,
}

/// The dynamic loader and the checks of a start also run on a plugin's stack.
const MIN_STACK_BYTES: u64 = 256 << 10;

/// Bounds the requested limits by the host's; also returns notes about changed limits.
pub(crate) fn effective_limits(
    requested: &Limits,
    kind: Kind,
    host: &HostLimits,
) -> (PluginLimits, Vec<String>) {
    // Calls to a process need no threads.
    let max_workers = match kind {
        Kind::Library => host.max_workers,
        Kind::Process => host.max_process_calls,
    };
    let mut notes = Vec::new();
    let mut clamp = |field: &str, requested: Option<u64>, min: u64, max: u64| {
        let max = max.max(min);
        let Some(requested) = requested else { return max };
        let effective = requested.clamp(min, max);
        if effective != requested {
            let allowed =
                if effective < requested { "allows at most" } else { "requires at least" };
            notes.push(format!("`limits.{field}` is {requested}; this host {allowed} {effective}"));
        }
        effective
    };
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let workers = clamp("workers", requested.workers.map(u64::from), 1, max_workers.into());
    let queue = clamp("queue", requested.queue.map(u64::from), 1, host.max_queued_calls.into());
    let max_stack_bytes = host.max_stack_bytes;
    let input_bytes = clamp("input_bytes", requested.input_bytes, 0, host.max_input_bytes);
    let output_bytes = clamp("output_bytes", requested.output_bytes, 0, host.max_output_bytes);
    let stack_bytes = clamp("stack_bytes", requested.stack_bytes, MIN_STACK_BYTES, max_stack_bytes);
    let (streams, max_streams) = (requested.open_streams, host.max_open_streams);
    let open_streams = clamp("open_streams", streams.map(u64::from), 1, max_streams.into());
    // `None` means no limit.
    let mut clamp_open = |field: &str, requested: Option<u64>, max: Option<u64>| {
        let effective = clamp(field, requested, 1, max.unwrap_or(u64::MAX));
        (requested.is_some() || max.is_some()).then_some(effective)
    };
    let max_in_flight = host.max_in_flight.map(u64::from);
    let in_flight = clamp_open("in_flight", requested.in_flight.map(u64::from), max_in_flight);
    let in_flight = in_flight.map(narrow);
    let memory_bytes = clamp_open("memory_bytes", requested.memory_bytes, host.max_memory_bytes);
    let max_call_memory = host.max_call_memory_bytes;
    let call_memory_bytes =
        clamp_open("call_memory_bytes", requested.call_memory_bytes, max_call_memory);
    let limits = PluginLimits {
        // More workers than concurrent calls would be idle.
        workers: narrow(workers).min(in_flight.unwrap_or(u32::MAX)),
        queue: narrow(queue),
        input_bytes,
        output_bytes,
        stack_bytes,
        in_flight,
        open_streams: narrow(open_streams),
        memory_bytes,
        call_memory_bytes,
        deadline: requested.deadline,
    };
    (limits, notes)
}

/// Returns a note if the memory of calls of a plugin in its own process should be limited, which is
/// not.
pub(super) fn call_memory_note_of_process(requested: &Limits) -> Option<String> {
    let note = "`limits.call_memory_bytes` is not checked: the plugin runs in its own process, whose \
                memory `limits.memory_bytes` limits";
    requested.call_memory_bytes.map(|_| note.to_owned())
}

/// Returns a note if the memory of calls should be limited, but that of this backend is not, or only
/// in part.
pub(super) fn call_memory_note(
    #[cfg_attr(
        not(all(unix, feature = "process")),
        allow(unused_variables, reason = "for processes")
    )]
    requested: &Limits,
    limits: &PluginLimits,
    backend: &Backend,
) -> Option<String> {
    limits.call_memory_bytes?;
    let why = match backend {
        // A limit of the host is for libraries.
        #[cfg(all(unix, feature = "process"))]
        Backend::OutOfProcess(_) => {
            return call_memory_note_of_process(requested);
        }
        Backend::InProcess(_) if backend.call_meter().is_none() => {
            "is not checked: the plugin does not count the memory of calls"
        }
        Backend::InProcess(_) if backend.start_execute().is_some() => {
            "is only checked for methods that are not async: other calls are tasks on the plugin's \
             own threads"
        }
        Backend::InProcess(_) => return None,
    };
    Some(format!("`limits.call_memory_bytes` {why}"))
}

/// A permission of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InspectedPermission {
    /// The permission.
    pub permission: String,
    /// Whether the manifest requests it.
    pub is_requested: bool,
    /// Whether the configuration and the policy of the application grant it.
    pub is_granted: bool,
}

/// Maximum number of withheld permissions that are listed.
const MAX_NOTES: usize = 8;

impl Candidate {
    /// Evaluates the application's policy, if there is one, for each permission that the settings grant.
    /// Returns notes about withheld ones.
    pub(super) fn evaluate(
        &mut self,
        policy: Option<&PermissionPolicy>,
    ) -> Result<Vec<String>, Error> {
        let Some(PermissionPolicy(is_granted)) = policy else {
            return Ok(notes(&self.withheld()));
        };
        let name = self.manifest.name();
        let mut granted = BTreeSet::new();
        for permission in self.granted.clone() {
            let is_granted = catch_fault(|| is_granted(name, &permission));
            let is_granted = is_granted.map_err(|fault| {
                let message =
                    format!("the application's permission policy panicked for `{permission}`");
                let cause = Error::new(ErrorKind::LayerPanicked, message).caused_by(fault);
                self.failed(LoadStep::Manifest, ErrorKind::LayerPanicked).caused_by(cause)
            })?;
            if is_granted {
                granted.insert(permission);
            }
        }
        self.granted = granted;
        Ok(notes(&self.withheld()))
    }

    /// Returns the permissions that the manifest requests or the settings grant by name.
    pub(super) fn permissions(
        &mut self,
        policy: Option<&PermissionPolicy>,
        settings: &PluginSettings,
    ) -> Result<Vec<InspectedPermission>, Error> {
        self.evaluate(policy)?;
        let requested = self.manifest.permissions();
        let named = settings.named_grants(self.manifest.name());
        let all: BTreeSet<_> = requested.iter().map(String::as_str).chain(named).collect();
        let permission = |permission: &str| {
            let is_requested = requested.contains(permission);
            InspectedPermission {
                permission: permission.to_owned(),
                is_requested,
                is_granted: !is_requested || self.granted.contains(permission),
            }
        };
        Ok(all.into_iter().map(permission).collect())
    }

    /// Returns the permissions that its manifest requests and the application withholds.
    pub(super) fn withheld(&self) -> BTreeSet<String> {
        self.manifest.permissions().difference(&self.granted).cloned().collect()
    }
}

fn notes(withheld: &BTreeSet<String>) -> Vec<String> {
    let listed = withheld.iter().take(MAX_NOTES);
    let mut notes: Vec<_> = listed
        .map(|permission| {
            format!("`permissions` requests `{permission}`, which this host does not grant")
        })
        .collect();
    if withheld.len() > MAX_NOTES {
        let more = withheld.len() - MAX_NOTES;
        notes.push(format!("`permissions` requests {more} more that this host does not grant"));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requested_limits_are_bounded_and_changes_noted() {
        let host = HostLimits { max_queued_calls: 100, ..HostLimits::default() };
        let requested = Limits::default()
            .with_queue(Some(1000))
            .with_input_bytes(Some(7))
            .with_stack_bytes(Some(1))
            .with_open_streams(Some(2000));
        let (limits, notes) = effective_limits(&requested, Kind::Library, &host);
        assert_eq!((limits.queue, limits.input_bytes), (100, 7));
        assert_eq!((limits.stack_bytes, limits.open_streams), (MIN_STACK_BYTES, 1024));
        assert_eq!(
            notes,
            [
                "`limits.queue` is 1000; this host allows at most 100",
                "`limits.stack_bytes` is 1; this host requires at least 262144",
                "`limits.open_streams` is 2000; this host allows at most 1024",
            ]
        );
    }
}
