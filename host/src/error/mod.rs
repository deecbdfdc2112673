//! The crate's error: one opaque type, one pointer wide. Errors of modules are private; callers see
//! them only as causes.

pub(crate) mod artifact;
pub(crate) mod boundary;
mod call_error;
#[cfg(all(unix, feature = "process"))]
mod process;
#[cfg(test)]
mod reference;
pub(crate) mod signature;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hotbay_manifest::{ApiMismatch, ManifestError, SchemaError, StampMismatch, Unstartable};
use hotbay_plugin::text::{Lines, escaped};
use hotbay_plugin::{Fault, PluginError};

use crate::id::{GenerationId, PluginName};
use artifact::ArtifactError;
use boundary::{BoundaryError, ProbeError};
pub(crate) use call_error::is_not_served;
use signature::SignatureError;

/// The result of most operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason a call, a load, a reload or an unload failed.
///
/// [`kind`](Self::kind) classifies the error, and methods such as [`is_timeout`](Self::is_timeout)
/// answer the usual questions. `Display` prints the error itself,
/// [`full_message`](Self::full_message) its whole cause chain. Advice is separate:
/// [`hint`](Self::hint).
///
/// ```
/// use hotbay::{Host, Output};
///
/// let host = Host::builder()
///     .register_fn("resize", |_, input| Ok(Output::copy_of(input.as_bytes())))
///     .build()?;
/// let error = host.plugin("resise").unwrap_err();
/// assert!(error.is_not_found());
/// assert_eq!(error.kind().as_str(), "not_found");
/// assert_eq!(error.to_string(), "plugin `resise` not found");
/// assert_eq!(error.hint(), Some("did you mean `resize`?"));
/// # Ok::<(), hotbay::Error>(())
/// ```
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    plugin: Option<PluginName>,
    generation: Option<GenerationId>,
    step: Option<LoadStep>,
    skipped: Vec<PluginName>,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    /// Shared by the errors of calls that failed together.
    cause: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The classes of an [`Error`], by how a caller can handle it.
///
/// `Display` and [`as_str`](Self::as_str) give the name in snake case, as in the JSON output of the
/// command.
///
/// ```
/// use hotbay::{ErrorKind, Host};
///
/// let host = Host::builder().build()?;
/// let error = host.plugin("echo").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NotFound);
/// assert_eq!(error.kind().to_string(), "not_found");
/// # Ok::<(), hotbay::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No plugin has this name. Check the name, or load the plugin first.
    NotFound,
    /// A plugin of this name already exists. Unload it first, or rename one of the two.
    Duplicate,
    /// The manifest is invalid. Fix the field that the message names.
    Manifest,
    /// Plugin and host are incompatible: a different version or memory layout is expected. Rebuild
    /// the plugin, or update the host.
    Incompatible,
    /// A file has changed or is not safe to use. Install it again.
    Integrity,
    /// The plugin failed to start.
    StartFailed,
    /// The configuration is invalid. Fix the field that the message names.
    Config,
    /// A required plugin is missing, or another plugin requires this one.
    Requires,
    /// The input was rejected before the call: too large, not a valid request, or not valid
    /// against the plugin's `input_schema` or the application's validators.
    InvalidInput,
    /// The output is unusable: too large, not of the requested form, or dropped because the call took
    /// too much memory.
    InvalidOutput,
    /// The plugin does not serve the contract, or was built against a version of it without this
    /// method. It was not called.
    NotProvided,
    /// The plugin returned an error: see [`Error::plugin_error`].
    Plugin,
    /// The plugin panicked: see [`Error::fault`].
    Panicked,
    /// The connection to the plugin's process closed before the response arrived. The call may
    /// have run. The host restarts the process.
    Disconnected,
    /// The plugin's process violates the protocol. Fix the program.
    Protocol,
    /// The deadline passed. The call may still run; its output is discarded.
    DeadlineExceeded,
    /// The caller cancelled the call.
    Cancelled,
    /// A limit is reached, such as that of the plugin's queue. Retry later, or make fewer
    /// concurrent calls.
    Overloaded,
    /// The plugin waits for this call, or too many calls wait for each other. The message shows the
    /// chain of plugins.
    Circular,
    /// The plugin failed too often. The host probes it again after a while.
    Quarantined,
    /// The plugin was unloaded.
    Retired,
    /// The plugin does not have the permission that the call needs, or the application rejected
    /// the call.
    PermissionDenied,
    /// Code of the application that runs around calls, such as a layer, panicked.
    LayerPanicked,
    /// A later request replaced this one.
    Superseded,
    /// The host is shutting down.
    Shutdown,
    /// This process was forked after the host was built. The host's threads exist only in the
    /// parent. Build another host in the child.
    Forked,
    /// The host cannot do this on this system or for this plugin.
    Unsupported,
    /// A bug in the host. Please report it.
    Internal,
}

impl ErrorKind {
    /// Returns the name in snake case, such as `not_found`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Duplicate => "duplicate",
            Self::Manifest => "manifest",
            Self::Incompatible => "incompatible",
            Self::Integrity => "integrity",
            Self::StartFailed => "start_failed",
            Self::Config => "config",
            Self::Requires => "requires",
            Self::InvalidInput => "invalid_input",
            Self::InvalidOutput => "invalid_output",
            Self::NotProvided => "not_provided",
            Self::Plugin => "plugin",
            Self::Panicked => "panicked",
            Self::Disconnected => "disconnected",
            Self::Protocol => "protocol",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::Circular => "circular",
            Self::Quarantined => "quarantined",
            Self::Retired => "retired",
            Self::PermissionDenied => "permission_denied",
            Self::LayerPanicked => "layer_panicked",
            Self::Superseded => "superseded",
            Self::Shutdown => "shutdown",
            Self::Forked => "forked",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The steps of a load, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LoadStep {
    /// Reads the folder and its manifest.
    Manifest,
    /// Verifies the signature of the folder.
    Signature,
    /// Finds the plugins that this one requires.
    Requires,
    /// Finds, reads and copies the library or program.
    Stage,
    /// Compares length and digest.
    Digest,
    /// Reads the library's format, symbols and stamp.
    Probe,
    /// Compares the stamp with the manifest and the host.
    Version,
    /// Maps the library.
    Open,
    /// Compares the layout of the root module with the host's.
    Layout,
    /// Resolves what the program's sandbox permits, and checks that this machine can enforce it.
    Confine,
    /// Queries the program's capabilities.
    Capabilities,
    /// Validates the configuration.
    Config,
    /// Starts the program.
    Launch,
    /// Reads the address that the program printed.
    Location,
    /// Polls the program until it accepts calls.
    Ready,
    /// Starts the plugin.
    Init,
    /// Waits for the calls that run on the previous build.
    Drain,
    /// Takes the state of the previous build.
    Snapshot,
    /// Hands the state to the new build.
    Restore,
    /// Checks the health of the plugin.
    Health,
}

impl fmt::Display for LoadStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Signature => "signature",
            Self::Requires => "requires",
            Self::Stage => "stage",
            Self::Digest => "digest",
            Self::Probe => "probe",
            Self::Version => "version",
            Self::Open => "open",
            Self::Layout => "layout",
            Self::Confine => "confine",
            Self::Capabilities => "capabilities",
            Self::Config => "config",
            Self::Launch => "launch",
            Self::Location => "location",
            Self::Ready => "ready",
            Self::Init => "init",
            Self::Drain => "drain",
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Health => "health",
        })
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self(Box::new(Inner {
            kind,
            plugin: None,
            generation: None,
            step: None,
            skipped: Vec::new(),
            message,
            hint: None,
            retry_after: None,
            cause: None,
        }))
    }

    /// Returns the error of a [`Layer`](crate::Layer) that does not allow a call:
    /// [`PermissionDenied`](ErrorKind::PermissionDenied).
    ///
    /// ```
    /// # use hotbay::{Error, ErrorKind};
    /// let error = Error::denied("no token");
    /// assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    /// assert_eq!(error.full_message(), "the application rejected the call: no token");
    /// ```
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::rejected(ErrorKind::PermissionDenied, reason)
    }

    /// Returns the error of a layer that rejects an input:
    /// [`InvalidInput`](ErrorKind::InvalidInput).
    pub fn invalid_input(reason: impl Into<String>) -> Self {
        Self::rejected(ErrorKind::InvalidInput, reason)
    }

    /// Returns the error of a layer that rejects an output:
    /// [`InvalidOutput`](ErrorKind::InvalidOutput).
    pub fn invalid_output(reason: impl Into<String>) -> Self {
        let message = "the application rejected the output";
        Self::new(ErrorKind::InvalidOutput, message).caused_by(reason.into())
    }

    /// Returns the error of a layer that limits calls: [`Overloaded`](ErrorKind::Overloaded).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hotbay::Error;
    /// let error = Error::overloaded("100 requests a second").with_retry_after(Duration::from_secs(1));
    /// assert!(error.is_overloaded() && error.is_retryable());
    /// assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    /// ```
    pub fn overloaded(reason: impl Into<String>) -> Self {
        Self::rejected(ErrorKind::Overloaded, reason)
    }

    /// Returns the error of a layer whose own time limit passed:
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded).
    pub fn deadline_exceeded(reason: impl Into<String>) -> Self {
        Self::rejected(ErrorKind::DeadlineExceeded, reason)
    }

    /// Returns the error of a layer that cancels a call: [`Cancelled`](ErrorKind::Cancelled).
    pub fn cancelled(reason: impl Into<String>) -> Self {
        Self::rejected(ErrorKind::Cancelled, reason)
    }

    fn rejected(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self::new(kind, "the application rejected the call").caused_by(reason.into())
    }

    /// Sets the advice that [`hint`](Self::hint) returns.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Sets the hint if there is one.
    pub(crate) fn with_optional_hint(self, hint: Option<impl Into<Cow<'static, str>>>) -> Self {
        match hint {
            Some(hint) => self.with_hint(hint),
            None => self,
        }
    }

    /// Sets the time that [`retry_after`](Self::retry_after) returns.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Sets the cause. If the error has no hint, it takes over that of a cause of this crate.
    pub(crate) fn caused_by(self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.caused_by_shared(cause.into().into())
    }

    /// Sets the cause like [`caused_by`](Self::caused_by).
    pub(crate) fn caused_by_shared(mut self, cause: Arc<dyn StdError + Send + Sync>) -> Self {
        if self.0.hint.is_none() {
            self.0.hint = hint_of(&*cause).map(Cow::Owned);
        }
        self.0.cause = Some(cause);
        self
    }

    /// Returns the error of a host in a process that was forked after it was built.
    #[cold]
    pub(crate) fn forked() -> Self {
        let message = "the host cannot be used in this process, which was forked after the host was \
                       built";
        Self::new(ErrorKind::Forked, message).with_hint("build another host in this process")
    }

    pub(crate) fn of(mut self, plugin: &PluginName) -> Self {
        self.0.plugin = Some(plugin.clone());
        self
    }

    /// Sets the plugin, unless it is set.
    pub(crate) fn of_if_unset(self, plugin: &PluginName) -> Self {
        if self.0.plugin.is_some() { self } else { self.of(plugin) }
    }

    /// Sets the plugin, unless it is set, and puts `what_happened` to it before the message.
    pub(crate) fn of_if_unset_because(self, plugin: &PluginName, what_happened: &str) -> Self {
        if self.0.plugin.is_some() {
            return self;
        }
        let mut error = self.of(plugin);
        error.0.message = format!("{what_happened}: {}", error.0.message).into();
        error
    }

    pub(crate) fn in_generation(mut self, generation: GenerationId) -> Self {
        self.0.generation = Some(generation);
        self
    }

    pub(crate) fn at_step(mut self, step: LoadStep) -> Self {
        self.0.step = Some(step);
        self
    }

    /// Returns the same error for another call.
    pub(crate) fn cloned(&self) -> Self {
        Self(self.0.clone())
    }

    /// Sets the pipeline steps that did not run because of this error.
    pub(crate) fn skipping(mut self, skipped: Vec<PluginName>) -> Self {
        self.0.skipped = skipped;
        self
    }

    /// Appends the errors of providers that were tried after this one.
    pub(crate) fn also_tried(mut self, others: &[Error]) -> Self {
        if !others.is_empty() {
            let others: Vec<_> = others.iter().map(Self::to_string).collect();
            self.0.message =
                format!("{} (tried next: {})", self.0.message, others.join("; ")).into();
        }
        self
    }

    /// Returns the same error for a failed build whose previous build was restarted.
    pub(crate) fn started_again(mut self, generation: GenerationId) -> Self {
        let step = self.step().map(|step| format!(" at step `{step}`")).unwrap_or_default();
        let message = format!(
            "failed to reload{step} (the previous build was restarted as generation {generation})"
        );
        self.0.message = message.into();
        self.in_generation(generation)
    }

    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns whether the deadline passed.
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::DeadlineExceeded
    }

    /// Returns whether the caller cancelled the call.
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Returns whether no plugin has the requested name.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Returns whether a limit on calls is reached.
    pub fn is_overloaded(&self) -> bool {
        self.kind() == ErrorKind::Overloaded
    }

    /// Returns whether the same call may succeed later: the plugin is overloaded or quarantined, or
    /// it returned an error that it marked as retryable.
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            ErrorKind::Overloaded | ErrorKind::Quarantined => true,
            ErrorKind::Plugin => self.plugin_error().is_some_and(PluginError::is_retryable),
            _ => false,
        }
    }

    /// Returns how long to wait before a retry: the time until the next probe of a quarantined plugin
    /// or the next start of a process, an estimate for an overloaded plugin, or the value that a
    /// layer set. `None` if the host does not know.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Returns advice on how to fix the error, as one line without a final period.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Returns the name of the plugin that the error is about.
    pub fn plugin(&self) -> Option<&PluginName> {
        self.0.plugin.as_ref()
    }

    /// Returns the generation of the plugin that the error is about.
    pub fn generation(&self) -> Option<GenerationId> {
        self.0.generation
    }

    /// Returns the step of a load that failed, or `None` for other errors.
    pub fn step(&self) -> Option<LoadStep> {
        self.0.step
    }

    /// Returns the steps of a [`Pipeline`](crate::Pipeline) that did not run because of this error,
    /// in their order. The step that failed is [`plugin`](Self::plugin).
    pub fn skipped(&self) -> &[PluginName] {
        &self.0.skipped
    }

    /// Returns the error that the plugin returned, unchanged.
    pub fn plugin_error(&self) -> Option<&PluginError> {
        self.cause_as()
    }

    /// Returns the panic that the host caught.
    pub fn fault(&self) -> Option<&Fault> {
        self.cause_as()
    }

    fn cause_as<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.cause.as_deref().and_then(|cause| cause.downcast_ref())
    }

    /// Returns the messages of the error and all of its causes, joined by colons.
    ///
    /// Text from plugins is escaped: control characters except line feeds and tabs, and characters
    /// that change the direction of text. The message has several lines if such a text has.
    pub fn full_message(&self) -> String {
        let mut message = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        escaped(&message, Lines::Many).into_owned()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(plugin) = &self.0.plugin {
            write!(f, "plugin `{plugin}` ")?;
        }
        f.write_str(&escaped(&self.0.message, Lines::Many))
    }
}

impl fmt::Debug for Error {
    /// Formats for people: a `main` that returns an error prints it this way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.full_message(), self.0.kind)?;
        match self.hint() {
            Some(hint) => write!(f, "\nhint: {}", escaped(hint, Lines::One)),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// Returns an internal error and logs it; panics in a debug build.
macro_rules! bug {
    ($($message:tt)*) => {{
        let message = format!($($message)*);
        debug_assert!(false, "{message}");
        tracing::error!(message, "internal error");
        $crate::error::Error::new($crate::error::ErrorKind::Internal, message)
    }};
}
pub(crate) use bug;

/// Returns the hint of an error, if it is one of this crate's and has one.
fn hint_of(error: &(dyn StdError + Send + Sync + 'static)) -> Option<String> {
    macro_rules! first_of {
        ($($type:ty),*) => {
            $(if let Some(error) = error.downcast_ref::<$type>() {
                return error.hint();
            })*
        };
    }
    first_of!(
        ArtifactError,
        SignatureError,
        BoundaryError,
        ProbeError,
        ManifestError,
        ApiMismatch,
        StampMismatch,
        Unstartable,
        SchemaError
    );
    #[cfg(all(unix, feature = "process"))]
    if let Some(error) = error.downcast_ref::<hotbay_process::Error>() {
        return error.hint().map(str::to_owned);
    }
    #[cfg(all(unix, feature = "process"))]
    if let Some(error) = error.downcast_ref::<hotbay_process::Diagnosis>() {
        return error.hint.clone();
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.hint().map(str::to_owned);
    }
    error.downcast_ref::<Box<ManifestError>>().and_then(|error| error.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_one_word_and_displays_only_itself() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let name = PluginName::new("echo").expect("a name");
        let error = Error::new(ErrorKind::Plugin, "returned an error")
            .caused_by(PluginError::new(500, "no"))
            .of(&name)
            .in_generation(GenerationId::after(2));
        assert_eq!(error.to_string(), "plugin `echo` returned an error");
        assert_eq!(error.full_message(), "plugin `echo` returned an error: no (code 500)");
        assert_eq!(error.plugin_error().map(PluginError::code), Some(500));
        assert!(error.fault().is_none());
    }

    #[test]
    fn cloned_error_keeps_its_cause() {
        let error = Error::new(ErrorKind::Plugin, "returned an error")
            .caused_by(PluginError::new(500, "no").retryable())
            .with_hint("retry");
        let cloned = error.cloned();
        assert_eq!(cloned.full_message(), error.full_message());
        assert!(cloned.is_retryable() && cloned.plugin_error().is_some());
        assert_eq!(cloned.hint(), Some("retry"));
    }

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(crate::id::Hex(&[0x00, 0x0a, 0xff]).to_string(), "000aff");
    }
}
