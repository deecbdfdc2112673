//! The policy for calls of a generation, from its manifest and its host, and the checks of a call
//! against it: permissions, input length and schemas. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use hotbay_manifest::{Checker, Exceeded, SchemaError, Types};

use crate::call::Request;
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::sync::after;
use crate::worker::QueueLimits;

/// The policy for calls of one generation.
#[derive(Clone, Debug)]
pub(crate) struct CallPolicy {
    pub(crate) queue: QueueLimits,
    /// Time limit in the queue.
    pub(crate) queue_timeout: Option<Duration>,
    /// Time limit of a pooled call in the manifest.
    pub(crate) max_deadline: Option<Duration>,
    /// Time limit of a pooled call without a deadline, if the manifest has none.
    pub(crate) default_deadline: Option<Duration>,
    /// Maximum of concurrent calls.
    pub(crate) max_in_flight: Option<u32>,
    /// Number of concurrent calls, if they are limited.
    pub(crate) in_flight: Arc<AtomicU32>,
    pub(crate) max_open_streams: u32,
    /// Maximum of threads that make items of streams.
    pub(crate) max_stream_threads: u32,
    pub(crate) max_memory_bytes: Option<u64>,
    /// Maximum memory of a call of a library.
    pub(crate) max_call_memory_bytes: Option<u64>,
    pub(crate) max_input_bytes: u64,
    /// Operations that the plugin is permitted to do.
    pub(crate) permissions: BTreeSet<String>,
    /// Permissions that its manifest requests and the application does not grant.
    pub(crate) withheld: BTreeSet<String>,
    /// Schema of all inputs.
    pub(crate) input_schema: Option<Arc<Checker>>,
    /// Schemas of inputs that name their type.
    pub(crate) types: Arc<Types>,
}

impl CallPolicy {
    /// Returns whether inputs are validated against a schema.
    pub(crate) fn checks_input(&self) -> bool {
        self.input_schema.is_some() || !self.types.is_empty()
    }

    /// Returns whether a pooled call with this deadline must read the clock.
    pub(crate) fn needs_clock(&self, deadline: Option<Instant>) -> bool {
        self.queue_timeout.is_some()
            || self.max_deadline.is_some()
            || (deadline.is_none() && self.default_deadline.is_some())
    }

    /// Returns whether neither duration nor number of concurrent calls is limited.
    pub(crate) fn is_unbounded(&self) -> bool {
        let deadline = self.max_deadline.or(self.default_deadline);
        deadline.is_none() && self.max_in_flight.is_none()
    }

    /// Returns the time limit of each call of a batch, if the caller requests `timeout`.
    pub(crate) fn timeout(&self, timeout: Option<Duration>) -> Option<Duration> {
        timeout.into_iter().chain(self.max_deadline).min().or(self.default_deadline)
    }

    /// Returns the deadline of a call made at `now`, if the caller requests `deadline`.
    pub(crate) fn deadline(&self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        let max = self.max_deadline.map(|max| after(now, max));
        let default = || Some(after(now, self.default_deadline?));
        match (deadline, max) {
            (Some(deadline), Some(max)) => Some(deadline.min(max)),
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => default(),
        }
    }
}

/// Limits on operation names in messages: characters of each, and their number.
const MAX_NAME_CHARS: usize = 64;
const MAX_NAMES: usize = 8;

impl CallPolicy {
    /// Checks operation and input.
    #[cold]
    pub(crate) fn check(&self, plugin: &PluginName, request: &Request<'_>) -> Result<(), Error> {
        self.check_operation(plugin, request)?;
        self.check_input(plugin, request)
    }

    /// Rejects a request for an operation that the plugin has no permission for.
    pub(crate) fn check_operation(
        &self,
        plugin: &PluginName,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        match request.operation() {
            Some(operation) if !self.permissions.contains(operation) => {
                Err(self.permission_denied(operation).of(plugin))
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn permission_denied(&self, operation: &str) -> Error {
        let hint = if self.withheld.contains(operation) {
            "grant the permission in the application's permission policy; the manifest requests it"
        } else if operation.is_empty() {
            "pass the name of an operation, or remove the call to `operation`"
        } else {
            "add the operation to `permissions` in plugin.json"
        };
        let named: String = operation.chars().take(MAX_NAME_CHARS).collect();
        let more = if named.len() < operation.len() { "…" } else { "" };
        let granted = granted_names(&self.permissions);
        let message =
            format!("was not called: it has no permission for `{named}{more}`, {granted}");
        Error::new(ErrorKind::PermissionDenied, message).with_hint(hint)
    }

    /// Rejects a request whose input is too long or does not match its schemas.
    pub(crate) fn check_input(
        &self,
        plugin: &PluginName,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        // The types of a method's arguments are checked by its contract.
        if !self.checks_input() || request.is_bodiless() || request.method_request().is_some() {
            return Ok(());
        }
        self.check_length(plugin, request)?;
        if let Some(schema) = &self.input_schema {
            let checked = schema.check_text(request.as_bytes(), request.deadline());
            checked.map_err(|error| invalid_input("its `input_schema`", error).of(plugin))?;
        }
        self.types.check(request.as_bytes(), request.deadline()).map_err(|(name, error)| {
            invalid_input(&format!("the schema that it declares for the type `{name}`"), error)
                .of(plugin)
        })
    }

    /// Rejects a request whose input is too long to be checked.
    pub(crate) fn check_length(
        &self,
        plugin: &PluginName,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        let (found, max) = (request.as_bytes().len(), self.max_input_bytes);
        if found as u64 <= max {
            return Ok(());
        }
        Err(input_too_large(found, max).of(plugin))
    }
}

/// Returns the error of a call with too long an input.
#[cold]
pub(super) fn input_too_large(found: usize, max: u64) -> Error {
    let message = format!(
        "was not called: the input is {found} bytes long; its `limits.input_bytes` is {max}"
    );
    Error::new(ErrorKind::InvalidInput, message)
}

#[cold]
fn invalid_input(schema: &str, error: SchemaError) -> Error {
    let (kind, message) = match error {
        SchemaError::NoThread(_) => (ErrorKind::Overloaded, "could not be validated against"),
        // Not reached: a plugin whose schema cannot be compiled is not loaded.
        SchemaError::Unsupported => (ErrorKind::Internal, "cannot be validated against"),
        SchemaError::Exceeded(Exceeded::Deadline) => {
            (ErrorKind::DeadlineExceeded, "could not be validated in time against")
        }
        SchemaError::Exceeded(_) => {
            (ErrorKind::InvalidInput, "is too complex to be validated against")
        }
        SchemaError::Schema(_) | SchemaError::Value(_) => {
            (ErrorKind::InvalidInput, "does not match")
        }
    };
    Error::new(kind, format!("was not called: the input {message} {schema}")).caused_by(error)
}

/// Formats the permissions that were granted.
fn granted_names(permissions: &BTreeSet<String>) -> String {
    if permissions.is_empty() {
        return "or any other".to_owned();
    }
    let short = |name: &String| {
        let short: String = name.chars().take(MAX_NAME_CHARS).collect();
        format!("`{short}`")
    };
    let names: Vec<_> = permissions.iter().take(MAX_NAMES).map(short).collect();
    let more = permissions.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("only {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::QueueLimits;

    #[test]
    fn deadline_is_bounded_by_manifest_and_defaults_without_request() {
        let now = Instant::now();
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        let check = |requested: Option<u64>, max, default, expected: Option<u64>| {
            let queue = QueueLimits { max_queued: 1, max_waiting_for_space: 0, max_replaced: 0 };
            let policy = CallPolicy {
                queue,
                queue_timeout: None,
                max_deadline: seconds(max),
                default_deadline: seconds(default),
                max_in_flight: None,
                in_flight: Arc::default(),
                max_open_streams: 1,
                max_stream_threads: 1,
                max_memory_bytes: None,
                max_call_memory_bytes: None,
                max_input_bytes: 0,
                permissions: BTreeSet::new(),
                withheld: BTreeSet::new(),
                input_schema: None,
                types: Arc::default(),
            };
            let at = |seconds: Option<u64>| Some(now + Duration::from_secs(seconds?));
            assert_eq!(policy.deadline(now, at(requested)), at(expected));
            if at(expected) != at(requested) {
                assert!(policy.needs_clock(at(requested)));
            }
        };
        check(None, None, None, None);
        check(None, None, Some(5), Some(5));
        check(None, Some(3), Some(5), Some(3));
        check(Some(9), None, Some(5), Some(9));
        check(Some(9), Some(3), Some(5), Some(3));
        check(Some(1), Some(3), Some(5), Some(1));
    }

    fn check(granted: &[&str], withheld: &[&str], operation: &str, message: &str, hint: &str) {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let policy = CallPolicy {
            queue: QueueLimits { max_queued: 1, max_waiting_for_space: 0, max_replaced: 0 },
            queue_timeout: None,
            max_deadline: None,
            default_deadline: None,
            max_in_flight: None,
            in_flight: std::sync::Arc::default(),
            max_open_streams: 1,
            max_stream_threads: 1,
            max_memory_bytes: None,
            max_call_memory_bytes: None,
            max_input_bytes: 0,
            permissions: set(granted),
            withheld: set(withheld),
            input_schema: None,
            types: std::sync::Arc::default(),
        };
        let plugin = PluginName::new("store").unwrap();
        let request = Request::text("x").with_operation(operation.to_owned());
        let Err(error) = policy.check_operation(&plugin, &request) else {
            return assert_eq!(message, "");
        };
        assert_eq!((&*error.to_string(), error.hint().unwrap_or_default()), (message, hint));
    }

    #[test]
    fn operation_without_permission_is_denied_with_a_hint() {
        check(&["read"], &[], "read", "", "");
        check(
            &["log", "read"],
            &[],
            "write",
            "plugin `store` was not called: it has no permission for `write`, only `log`, `read`",
            "add the operation to `permissions` in plugin.json",
        );
        check(
            &[],
            &["write"],
            "write",
            "plugin `store` was not called: it has no permission for `write`, or any other",
            "grant the permission in the application's permission policy; the manifest requests it",
        );
        check(
            &[],
            &[],
            "",
            "plugin `store` was not called: it has no permission for ``, or any other",
            "pass the name of an operation, or remove the call to `operation`",
        );
    }

    #[test]
    fn denied_operation_message_is_bounded() {
        let names: Vec<_> = (10..40).map(|number| format!("db:{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let long = "é".repeat(100_000);
        let message = format!(
            "plugin `store` was not called: it has no permission for `{}…`, only `db:10`, \
             `db:11`, `db:12`, `db:13`, `db:14`, `db:15`, `db:16`, `db:17` and 22 more",
            "é".repeat(MAX_NAME_CHARS)
        );
        check(&names, &[], &long, &message, "add the operation to `permissions` in plugin.json");
    }
}
