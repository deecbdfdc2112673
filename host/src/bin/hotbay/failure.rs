//! What the command itself fails with, told in at most three lines or as JSON.

use std::error::Error as _;
use std::io;

use hotbay::{Error, ErrorKind};
use serde_json::{Value, json};

/// Why the command ends without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library's own error.
    Host(Error),
    /// A wrong word on the command line that its grammar did not catch.
    Usage(String),
    /// Something else that the command did.
    Own { kind: &'static str, message: String, because: Option<String> },
}

impl Failure {
    pub(crate) fn io(message: impl Into<String>, error: &io::Error) -> Self {
        Self::Own { kind: "io", message: message.into(), because: Some(error.to_string()) }
    }

    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self::Own { kind, message: message.into(), because: None }
    }

    pub(crate) fn because(self, why: impl Into<String>) -> Self {
        match self {
            Self::Own { kind, message, .. } => {
                Self::Own { kind, message, because: Some(why.into()) }
            }
            other => other,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Host(_) | Self::Own { .. } => 1,
        }
    }

    /// At most three lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Host(error) => error_lines(error),
            Self::Usage(message) => {
                vec![format!("error: {message}"), "  help: see `hotbay --help`".to_owned()]
            }
            Self::Own { message, because, .. } => {
                let mut lines = vec![format!("error: {message}")];
                lines.extend(because.as_ref().map(|why| format!("  because: {why}")));
                lines
            }
        }
    }

    /// Everything in one line, without details.
    pub(crate) fn full_message(&self) -> String {
        match self {
            Self::Host(error) => error.full_message(),
            Self::Usage(message) | Self::Own { message, because: None, .. } => message.clone(),
            Self::Own { message, because: Some(why), .. } => format!("{message}: {why}"),
        }
    }

    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Host(error) => error_json(error),
            Self::Usage(message) => own_json("usage", message),
            Self::Own { kind, .. } => own_json(kind, &self.full_message()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

fn error_lines(error: &Error) -> Vec<String> {
    let mut lines = vec![format!("error: {error}")];
    let causes = causes(error);
    if !causes.is_empty() {
        lines.push(format!("  because: {causes}"));
    }
    if let Some(details) = error.plugin_error().and_then(|error| error.details()) {
        lines.push(format!("  details: {details}"));
    }
    lines
}

/// Everything below the error's own level, in one line.
fn causes(error: &Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.join(": ")
}

/// The error for a cell of a table whose row already names the plugin.
pub(crate) fn short(error: &Error) -> String {
    match (error.step(), causes(error)) {
        (_, causes) if causes.is_empty() => error.to_string(),
        (Some(step), causes) => format!("{step}: {causes}"),
        (None, causes) => format!("{error}: {causes}"),
    }
}

/// The error with the same fields whatever it is.
pub(crate) fn error_json(error: &Error) -> Value {
    let own = error.plugin_error();
    let fault = error.fault();
    json!({
        "kind": kind_name(error.kind()),
        "step": error.step().map(|step| step.to_string()),
        "plugin": error.plugin().map(|name| name.as_str()),
        "generation": error.generation().map(|generation| generation.get()),
        "message": own.map_or_else(|| error.full_message(), |own| own.message().to_owned()),
        "code": own.map(|own| own.code()),
        "retryable": own.map(|own| own.is_retryable()),
        "details": own.and_then(|own| own.details()),
        "location": fault.and_then(|fault| fault.location()).map(ToString::to_string),
    })
}

/// An error of the command's own, with the fields of every other.
pub(crate) fn own_json(kind: &str, message: &str) -> Value {
    json!({
        "kind": kind, "step": null, "plugin": null, "generation": null, "message": message,
        "code": null, "retryable": null, "details": null, "location": null,
    })
}

/// `NotFound` as `not_found`: the names of the kinds are part of the library's interface.
pub(crate) fn kind_name(kind: ErrorKind) -> String {
    let mut name = String::new();
    for char in format!("{kind:?}").chars() {
        if char.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(char.to_ascii_lowercase());
    }
    name
}
