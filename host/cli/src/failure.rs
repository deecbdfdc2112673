//! Errors of the command, as lines of text or as JSON.

use std::error::Error as _;
use std::io;

use hotbay::Error;
use serde_json::{Value, json};

/// The reason the command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the library.
    Host(Error),
    /// An error of the library, under a title of the command.
    Titled { title: String, error: Error },
    /// An invalid argument that the parser did not catch.
    Usage(String),
    /// An error of the command itself.
    Own { kind: &'static str, message: String, because: Option<String>, hint: Option<String> },
}

impl Failure {
    pub(crate) fn io(message: impl Into<String>, error: &io::Error) -> Self {
        Self::new("io", message).because(error.to_string())
    }

    pub(crate) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self::Own { kind, message: message.into(), because: None, hint: None }
    }

    /// Creates a failure whose message is `title` instead of that of `error`.
    pub(crate) fn titled(title: impl Into<String>, error: Error) -> Self {
        Self::Titled { title: title.into(), error }
    }

    /// Sets the reason of an error of the command.
    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        if let Self::Own { because, .. } = &mut self {
            *because = Some(reason.into());
        }
        self
    }

    /// Sets the hint of an error of the command.
    pub(crate) fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Own { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Host(_) | Self::Titled { .. } | Self::Own { .. } => 1,
        }
    }

    /// Returns the error, its causes, details and a hint, each on a line.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Host(error) => error_lines(&error.to_string(), error),
            Self::Titled { title, error } => error_lines(title, error),
            Self::Usage(message) => {
                vec![format!("error: {message}"), "  hint: run `hotbay --help`".to_owned()]
            }
            Self::Own { message, because, hint, .. } => {
                let mut lines = vec![format!("error: {message}")];
                lines.extend(because.as_ref().map(|reason| format!("  because: {reason}")));
                lines.extend(hint.as_ref().map(|hint| format!("  hint: {hint}")));
                lines
            }
        }
    }

    /// Returns the error and its causes in one line, without details.
    pub(crate) fn full_message(&self) -> String {
        match self {
            Self::Host(error) => error.full_message(),
            Self::Titled { title, error } => match causes(error) {
                causes if causes.is_empty() => title.clone(),
                causes => format!("{title}: {causes}"),
            },
            Self::Usage(message) | Self::Own { message, because: None, .. } => message.clone(),
            Self::Own { message, because: Some(reason), .. } => format!("{message}: {reason}"),
        }
    }

    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Host(error) => error_json(error),
            Self::Titled { error, .. } => {
                let mut json = error_json(error);
                json["message"] = self.full_message().into();
                json
            }
            Self::Usage(message) => own_json("usage", message),
            Self::Own { kind, hint, .. } => {
                let mut json = own_json(kind, &self.full_message());
                json["hint"] = hint.as_deref().into();
                json
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

fn error_lines(title: &str, error: &Error) -> Vec<String> {
    let mut lines = vec![format!("error: {title}")];
    let causes = causes(error);
    if !causes.is_empty() {
        lines.push(format!("  because: {causes}"));
    }
    if let Some(details) = error.plugin_error().and_then(|error| error.details()) {
        lines.push(format!("  details: {details}"));
    }
    lines.extend(error.hint().map(|hint| format!("  hint: {hint}")));
    lines
}

/// Returns the messages of all causes in one line.
fn causes(error: &Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.join(": ")
}

/// Returns the error for a table row that already names the plugin.
pub(crate) fn short(error: &Error) -> String {
    match (error.step(), causes(error)) {
        (_, causes) if causes.is_empty() => error.to_string(),
        (Some(step), causes) => format!("{step}: {causes}"),
        (None, causes) => format!("{error}: {causes}"),
    }
}

/// Returns the error as JSON; the fields are the same for every error.
pub(crate) fn error_json(error: &Error) -> Value {
    let own = error.plugin_error();
    let fault = error.fault();
    json!({
        "kind": error.kind().as_str(),
        "step": error.step().map(|step| step.to_string()),
        "plugin": error.plugin().map(|name| name.as_str()),
        "generation": error.generation().map(|generation| generation.get()),
        "message": own.map_or_else(|| error.full_message(), |own| own.message().to_owned()),
        "hint": error.hint(),
        "code": own.map(|own| own.code()),
        "retryable": own.map(|own| own.is_retryable()),
        "details": own.and_then(|own| own.details()),
        "location": fault.and_then(|fault| fault.location()).map(ToString::to_string),
    })
}

/// Returns an error of the command as JSON, with the same fields.
pub(crate) fn own_json(kind: &str, message: &str) -> Value {
    json!({
        "kind": kind, "step": null, "plugin": null, "generation": null, "message": message,
        "hint": null, "code": null, "retryable": null, "details": null, "location": null,
    })
}
