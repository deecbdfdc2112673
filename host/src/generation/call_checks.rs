//! Whether a call is one that its generation takes: whether what it names was granted, and its
//! input fits. Pure; who asks decides when.

use std::collections::BTreeSet;

use super::CallPolicy;
use crate::call::Request;
use crate::error::manifest::{Exceeded, SchemaError};
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;

/// Most characters of an operation's name that are repeated, and most names.
const MAX_NAME_CHARS: usize = 64;
const MAX_NAMES: usize = 8;

impl CallPolicy {
    /// Judges everything there is.
    #[cold]
    pub(crate) fn check(&self, plugin: &PluginName, request: &Request<'_>) -> Result<(), Error> {
        self.check_operation(plugin, request)?;
        self.check_input(plugin, request)
    }

    /// Refuses a request that names what the plugin was not granted.
    pub(crate) fn check_operation(
        &self,
        plugin: &PluginName,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        match request.named_operation() {
            Some(operation) if !self.permissions.contains(operation) => {
                Err(self.permission_denied(operation).of(plugin))
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn permission_denied(&self, operation: &str) -> Error {
        let cure = if self.withheld.contains(operation) {
            "its manifest asks for it, and the application's `grant` does not give it"
        } else if operation.is_empty() {
            "name an operation, or none at all"
        } else {
            "list it in the `permissions` of its plugin.json if it is to do that"
        };
        let named: String = operation.chars().take(MAX_NAME_CHARS).collect();
        let more = if named.len() < operation.len() { "…" } else { "" };
        let granted = granted_names(&self.permissions);
        let message = format!(
            "was not called: the operation `{named}{more}` was not granted, {granted}; {cure}"
        );
        Error::new(ErrorKind::PermissionDenied, message)
    }

    /// Refuses a request whose input does not fit.
    pub(crate) fn check_input(
        &self,
        plugin: &PluginName,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        if !self.checks_input() || request.is_bodiless() {
            return Ok(());
        }
        self.check_length(plugin, request)?;
        if let Some(schema) = &self.input_schema {
            let fits = schema.check_text(request.as_bytes(), request.deadline());
            fits.map_err(|unfit| invalid_input("its `input_schema`", unfit).of(plugin))?;
        }
        self.types.check(request.as_bytes(), request.deadline()).map_err(|(name, unfit)| {
            invalid_input(&format!("the schema that it declares for the type `{name}`"), unfit)
                .of(plugin)
        })
    }

    /// Refuses a request that is too long to be looked at.
    pub(crate) fn check_length(
        &self,
        plugin: &PluginName,
        request: &Request<'_>,
    ) -> Result<(), Error> {
        let (found, wanted) = (request.as_bytes().len(), self.max_input_bytes);
        if found as u64 <= wanted {
            return Ok(());
        }
        let message = format!("was sent {found} bytes; its `limits.input_bytes` is {wanted}");
        Err(Error::new(ErrorKind::InvalidInput, message).of(plugin))
    }
}

#[cold]
fn invalid_input(schema: &str, unfit: SchemaError) -> Error {
    let (kind, message) = match unfit {
        SchemaError::NoThread(_) => (ErrorKind::Overloaded, "could not be checked against"),
        SchemaError::Exceeded(Exceeded::Deadline) => {
            (ErrorKind::DeadlineExceeded, "could not be checked in time against")
        }
        SchemaError::Exceeded(_) => {
            (ErrorKind::InvalidInput, "takes too much to be checked against")
        }
        SchemaError::Schema(_) | SchemaError::Value(_) => (ErrorKind::InvalidInput, "does not fit"),
    };
    Error::new(kind, format!("was not called: the input {message} {schema}")).caused_by(unfit)
}

/// What was granted, in words.
fn granted_names(permissions: &BTreeSet<String>) -> String {
    if permissions.is_empty() {
        return "nothing was".to_owned();
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
    use crate::pool::QueueLimits;

    fn check(granted: &[&str], withheld: &[&str], operation: &str, told: &str) {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let policy = CallPolicy {
            queue: QueueLimits { max_queued: 1, max_waiting_for_space: 0, max_replaced: 0 },
            queue_timeout: None,
            deadline_max: None,
            default_deadline: None,
            max_in_flight: None,
            in_flight: std::sync::Arc::default(),
            max_memory_bytes: None,
            max_input_bytes: 0,
            permissions: set(granted),
            withheld: set(withheld),
            input_schema: None,
            types: std::sync::Arc::default(),
        };
        let plugin = PluginName::new("store").unwrap();
        let request = Request::text("x").operation(operation.to_owned());
        let judged = policy.check_operation(&plugin, &request).map_err(|error| error.to_string());
        assert_eq!(judged.err().unwrap_or_default(), told);
    }

    #[test]
    fn an_operation_that_was_not_granted_is_told_with_what_was_and_what_to_do() {
        check(&["read"], &[], "read", "");
        check(
            &["log", "read"],
            &[],
            "write",
            "plugin `store` was not called: the operation `write` was not granted, only `log`, \
             `read`; list it in the `permissions` of its plugin.json if it is to do that",
        );
        check(
            &[],
            &["write"],
            "write",
            "plugin `store` was not called: the operation `write` was not granted, nothing was; \
             its manifest asks for it, and the application's `grant` does not give it",
        );
        check(
            &[],
            &[],
            "",
            "plugin `store` was not called: the operation `` was not granted, nothing was; name \
             an operation, or none at all",
        );
    }

    #[test]
    fn what_is_told_of_many_or_long_names_is_bounded() {
        let names: Vec<_> = (10..40).map(|number| format!("db:{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let long = "é".repeat(100_000);
        let told = format!(
            "plugin `store` was not called: the operation `{}…` was not granted, only `db:10`, \
             `db:11`, `db:12`, `db:13`, `db:14`, `db:15`, `db:16`, `db:17` and 22 more; list it \
             in the `permissions` of its plugin.json if it is to do that",
            "é".repeat(MAX_NAME_CHARS)
        );
        check(&names, &[], &long, &told);
    }
}
