//! The error of a call of a contract: failures of the call itself, and the plugin's own error.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::PluginError;
use crate::text::{Lines, escaped, write_escaped};

/// The reason a call of a contract's method failed.
///
/// Either the plugin returned an error, which [`plugin_error`](Self::plugin_error) returns
/// unchanged, or the call itself failed. [`source`](Error::source) returns the host's own error, and
/// [`full_message`](Self::full_message) the text of both.
///
/// An error type of your own implements `From<CallError>`, for failures of the call, and
/// `Into<PluginError>`, to cross:
///
/// ```
/// use hotbay_plugin::PluginError;
/// use hotbay_plugin::contract::{CallError, CallErrorKind};
///
/// #[derive(Debug, PartialEq)]
/// enum StoreError {
///     NotFound,
///     Other(String),
/// }
///
/// impl From<StoreError> for PluginError {
///     fn from(error: StoreError) -> Self {
///         match error {
///             StoreError::NotFound => PluginError::new(404, "not found"),
///             StoreError::Other(message) => PluginError::new(500, message),
///         }
///     }
/// }
///
/// impl From<CallError> for StoreError {
///     fn from(error: CallError) -> Self {
///         match error.plugin_error().map(PluginError::code) {
///             Some(404) => Self::NotFound,
///             _ => Self::Other(error.full_message()),
///         }
///     }
/// }
///
/// let crossed = CallError::from(PluginError::from(StoreError::NotFound));
/// assert_eq!(crossed.kind(), CallErrorKind::Plugin);
/// assert_eq!(StoreError::from(crossed), StoreError::NotFound);
/// ```
#[derive(Clone)]
pub struct CallError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: CallErrorKind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    plugin_error: Option<PluginError>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    may_have_run: bool,
}

/// The classes of a [`CallError`], by how a caller can handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The plugin returned an error: see [`CallError::plugin_error`].
    Plugin,
    /// The plugin panicked.
    Panicked,
    /// The plugin was built against a version of the contract without this method.
    NotProvided,
    /// An argument cannot cross, or was rejected before the call.
    InvalidInput,
    /// The result cannot be read.
    InvalidOutput,
    /// A permission is missing.
    PermissionDenied,
    /// The deadline passed.
    DeadlineExceeded,
    /// The call was cancelled.
    Cancelled,
    /// A limit is reached. Retry later.
    Overloaded,
    /// The plugin called is one of those that wait for this call, or too many calls wait for each
    /// other. The message shows the chain of plugins.
    Circular,
    /// The plugin serves no calls: it is unloaded, quarantined, or its process exited.
    Unavailable,
    /// Something else; the source has the details.
    Other,
}

/// The kinds by the codes and names with which they cross.
const CROSSING: [(i32, &str, CallErrorKind); 12] = [
    (1, "other", CallErrorKind::Other),
    (2, "plugin", CallErrorKind::Plugin),
    (3, "panicked", CallErrorKind::Panicked),
    (4, "not-provided", CallErrorKind::NotProvided),
    (5, "invalid-input", CallErrorKind::InvalidInput),
    (6, "invalid-output", CallErrorKind::InvalidOutput),
    (7, "permission-denied", CallErrorKind::PermissionDenied),
    (8, "deadline-exceeded", CallErrorKind::DeadlineExceeded),
    (9, "cancelled", CallErrorKind::Cancelled),
    (10, "overloaded", CallErrorKind::Overloaded),
    (11, "circular", CallErrorKind::Circular),
    (12, "unavailable", CallErrorKind::Unavailable),
];

#[doc(hidden)]
impl CallErrorKind {
    /// Returns the code with which it crosses the ABI: not zero.
    pub fn code(self) -> i32 {
        CROSSING.iter().find(|(.., kind)| *kind == self).map_or(1, |(code, ..)| *code)
    }

    /// Returns the kind with this code; `Other` if a newer host has one more.
    pub fn of_code(code: i32) -> Self {
        CROSSING.iter().find(|(known, ..)| *known == code).map_or(Self::Other, |(.., kind)| *kind)
    }

    /// Returns the name with which it crosses to programs.
    pub fn name(self) -> &'static str {
        CROSSING.iter().find(|(.., kind)| *kind == self).map_or("other", |(_, name, _)| *name)
    }

    /// Returns the kind with this name; `Other` if a newer host has one more.
    pub fn of_name(name: &str) -> Self {
        CROSSING.iter().find(|(_, known, _)| *known == name).map_or(Self::Other, |(.., kind)| *kind)
    }
}

impl CallError {
    /// Creates an error of the call itself.
    pub fn new(kind: CallErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        let (hint, plugin_error, source) = (None, None, None);
        Self(Box::new(Inner { kind, message, hint, plugin_error, source, may_have_run: false }))
    }

    /// Sets the advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Sets the error that the plugin returned.
    #[must_use]
    pub fn with_plugin_error(mut self, error: PluginError) -> Self {
        self.0.plugin_error = Some(error);
        self
    }

    /// States that the call may have had an effect, so that it must not be repeated as it is.
    #[doc(hidden)]
    #[must_use]
    pub fn that_may_have_run(mut self) -> Self {
        self.0.may_have_run = true;
        self
    }

    /// Returns the class of the error.
    pub fn kind(&self) -> CallErrorKind {
        self.0.kind
    }

    /// Returns the error that the plugin returned, if it did.
    pub fn plugin_error(&self) -> Option<&PluginError> {
        self.0.plugin_error.as_ref()
    }

    /// Returns advice, if there is any.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Returns the error that caused this one.
    #[doc(hidden)]
    pub fn shared_source(&self) -> Option<Arc<dyn Error + Send + Sync>> {
        self.0.source.clone()
    }

    /// Returns the messages of the error and all of its causes, joined by colons. Includes the text and
    /// the code of the plugin's own error, which `Display` omits.
    ///
    /// Text from plugins is escaped, as in `Display`.
    ///
    /// ```
    /// use hotbay_plugin::PluginError;
    /// use hotbay_plugin::contract::CallError;
    ///
    /// let error = CallError::from(PluginError::new(404, "no such key"));
    /// assert_eq!(error.to_string(), "the plugin returned an error");
    /// assert_eq!(error.full_message(), "the plugin returned an error: no such key (code 404)");
    /// ```
    pub fn full_message(&self) -> String {
        let mut message = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // An error of the host has the text of its source, and one that crossed that of all.
            if !format!(": {message}: ").contains(&format!(": {text}: ")) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        escaped(&message, Lines::Many).into_owned()
    }

    /// Returns whether the same call may succeed later, and had no effect. A call whose connection was
    /// lost, or that was abandoned, may have had one.
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            CallErrorKind::Plugin => self.plugin_error().is_some_and(PluginError::is_retryable),
            CallErrorKind::Overloaded | CallErrorKind::Unavailable => !self.0.may_have_run,
            _ => false,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0.message)
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, plugin_error, source, .. } = &*self.0;
        f.debug_struct("CallError")
            .field("kind", kind)
            .field("message", message)
            .field("plugin_error", plugin_error)
            .field("source", source)
            .finish()
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match (&self.0.source, &self.0.plugin_error) {
            (Some(source), _) => Some(&**source),
            (None, Some(error)) => Some(error),
            (None, None) => None,
        }
    }
}

impl From<PluginError> for CallError {
    fn from(error: PluginError) -> Self {
        Self::new(CallErrorKind::Plugin, "the plugin returned an error").with_plugin_error(error)
    }
}

impl From<CallError> for PluginError {
    /// Returns the plugin's own error, or one with a code that resembles that of HTTP. The message then
    /// ends with the hint, which a [`PluginError`] does not have.
    fn from(error: CallError) -> Self {
        let kind = error.kind();
        if let Some(error) = error.0.plugin_error {
            return error;
        }
        let code = match kind {
            CallErrorKind::InvalidInput => Self::BAD_INPUT,
            CallErrorKind::PermissionDenied => 403,
            CallErrorKind::NotProvided => 501,
            CallErrorKind::Cancelled => 499,
            CallErrorKind::DeadlineExceeded => 504,
            CallErrorKind::Overloaded | CallErrorKind::Unavailable => 503,
            CallErrorKind::InvalidOutput | CallErrorKind::Panicked => 502,
            CallErrorKind::Circular => 508,
            CallErrorKind::Plugin | CallErrorKind::Other => 500,
        };
        let mut message = error.0.message.into_owned();
        if let Some(hint) = error.0.hint {
            message = format!("{message}; hint: {hint}");
        }
        let converted = Self::new(code, message);
        if matches!(kind, CallErrorKind::Overloaded | CallErrorKind::Unavailable) {
            return converted.retryable();
        }
        converted
    }
}
