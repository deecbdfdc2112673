//! One opaque error, one word wide: its kind says what the caller can do, its sources say why.
//! The rooms' own errors are private and reach callers as sources only.

pub(crate) mod artifact;
pub(crate) mod boundary;
mod hex;
pub(crate) mod manifest;
mod panicked;
pub(crate) mod probe;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use hotbay_plugin::text::{Lines, escaped};
use hotbay_plugin::{Fault, PluginError};

use crate::id::{GenerationId, PluginName};
pub(crate) use hex::Hex;
pub(crate) use panicked::fault_of;

/// Why a call, a load or an unload failed.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    plugin: Option<PluginName>,
    generation: Option<GenerationId>,
    step: Option<LoadStep>,
    skipped: Vec<PluginName>,
    message: Cow<'static, str>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such plugin: check the name, or load it first.
    NotFound,
    /// A plugin of this name is there already: unload it first, or rename one.
    Duplicate,
    /// The manifest is wrong: mend the field that is named.
    Manifest,
    /// Another version or layout is wanted: rebuild the plugin, or update the host.
    Incompatible,
    /// A file is not what it was, or not safe to use: install it again.
    Integrity,
    /// The plugin did not start.
    StartFailed,
    /// The configuration is refused: mend the field that is named.
    Config,
    /// Another plugin that is required is missing, or requires this one.
    Requires,
    /// The input is refused before the call: too large, not what can be sent, or not what the
    /// plugin's `input_schema` or the application accepts.
    InvalidInput,
    /// The output cannot be used: too large, or not what was asked for.
    InvalidOutput,
    /// The plugin answered with an error of its own: see [`Error::plugin_error`].
    Plugin,
    /// The plugin panicked: see [`Error::fault`].
    Panicked,
    /// The connection to the plugin's process ended before the answer was there: the process
    /// ended, or closed it. The call may have run; the process is started again.
    Disconnected,
    /// The plugin's process does not keep to the protocol: mend the program.
    Protocol,
    /// The answer did not come in time. The call may still run; its answer goes nowhere.
    DeadlineExceeded,
    /// Whoever called did not want the answer any more.
    Cancelled,
    /// The queue is full: call later, or from fewer places.
    Overloaded,
    /// The plugin failed too often; it is probed again after a while.
    Quarantined,
    /// The plugin was unloaded.
    Retired,
    /// The plugin was not granted what was asked of it, or did what its host does not permit.
    PermissionDenied,
    /// Code of the application around the call panicked, such as a layer: mend it.
    LayerPanicked,
    /// A later request took the place of this one.
    Superseded,
    /// The host is shutting down.
    Shutdown,
    /// This process was forked after the host was built, and the host's threads are in the
    /// parent only: build another host in the child.
    Forked,
    /// The host cannot do this here: see the message.
    Unsupported,
    /// A mistake of the host's own; please report it.
    Internal,
}

/// The steps of a load, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LoadStep {
    /// The folder and its manifest are read.
    Manifest,
    /// What the plugin requires is looked for.
    Requires,
    /// The library is found, read and copied.
    Stage,
    /// Length and digest are compared.
    Digest,
    /// The bytes are looked at.
    Probe,
    /// The stamp is compared with the manifest and the host.
    Version,
    /// The library is mapped.
    Open,
    /// The root module is compared with the host's.
    Layout,
    /// The program is asked what it can do.
    Capabilities,
    /// The configuration is checked.
    Config,
    /// The program is started.
    Launch,
    /// The program tells where it can be reached.
    Location,
    /// The program is asked whether it can be called.
    Ready,
    /// The plugin is started.
    Init,
    /// What runs on the build before is waited for.
    Drain,
    /// The state of the build before is taken.
    Snapshot,
    /// The plugin is given a state.
    Restore,
    /// The plugin is asked whether it can work.
    Health,
}

impl fmt::Display for LoadStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Requires => "requires",
            Self::Stage => "stage",
            Self::Digest => "digest",
            Self::Probe => "probe",
            Self::Version => "version",
            Self::Open => "open",
            Self::Layout => "layout",
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
            cause: None,
        }))
    }

    /// The error of a [`Layer`](crate::Layer) that does not let a call go on, with its reason:
    /// kind `PermissionDenied`.
    pub fn denied(reason: impl Into<String>) -> Self {
        let message = "was not called: the application does not allow it";
        Self::new(ErrorKind::PermissionDenied, message).caused_by(reason.into())
    }

    pub(crate) fn caused_by(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// The error of a host in a process that was forked after it was built.
    #[cold]
    pub(crate) fn forked() -> Self {
        let message = "the host cannot be used in this process, which was forked after the host \
                       was built; build another host in it";
        Self::new(ErrorKind::Forked, message)
    }

    pub(crate) fn of(mut self, plugin: &PluginName) -> Self {
        self.0.plugin = Some(plugin.clone());
        self
    }

    /// Of this plugin, unless it is of one already.
    pub(crate) fn of_if_unset(self, plugin: &PluginName) -> Self {
        if self.0.plugin.is_some() { self } else { self.of(plugin) }
    }

    pub(crate) fn in_generation(mut self, generation: GenerationId) -> Self {
        self.0.generation = Some(generation);
        self
    }

    pub(crate) fn at_step(mut self, step: LoadStep) -> Self {
        self.0.step = Some(step);
        self
    }

    /// The same error for another call, without its sources.
    pub(crate) fn cloned(&self) -> Self {
        let mut again = Self::new(self.0.kind, self.0.message.clone());
        again.0.plugin.clone_from(&self.0.plugin);
        again.0.generation = self.0.generation;
        again
    }

    /// Names the steps of a pipeline that were not run because of this.
    pub(crate) fn skipping(mut self, skipped: Vec<PluginName>) -> Self {
        self.0.skipped = skipped;
        self
    }

    /// Says what became of others that were tried after this failed.
    pub(crate) fn also_tried(mut self, others: &[Error]) -> Self {
        for (at, other) in others.iter().enumerate() {
            let before = if at == 0 { "; tried next: " } else { "; " };
            self.0.message = format!("{}{before}{other}", self.0.message).into();
        }
        self
    }

    /// The same failure of a build, told where the build before was started again.
    pub(crate) fn started_again(mut self, generation: GenerationId) -> Self {
        let step = self.step().map(|step| format!(", at the step `{step}`")).unwrap_or_default();
        let message = format!(
            "was not reloaded{step}; the build before was started again and serves, as \
             generation {generation}"
        );
        self.0.message = message.into();
        self.in_generation(generation)
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The plugin that it is about.
    pub fn plugin(&self) -> Option<&PluginName> {
        self.0.plugin.as_ref()
    }

    /// The generation of the plugin that it is about.
    pub fn generation(&self) -> Option<GenerationId> {
        self.0.generation
    }

    /// The step of a load that failed; none for all other errors.
    pub fn step(&self) -> Option<LoadStep> {
        self.0.step
    }

    /// The steps of a [`Pipeline`](crate::Pipeline) that were not run because of this, in
    /// their order. The step that failed is [`plugin`](Self::plugin).
    pub fn skipped(&self) -> &[PluginName] {
        &self.0.skipped
    }

    /// The error that the plugin answered with, unchanged.
    pub fn plugin_error(&self) -> Option<&PluginError> {
        self.cause_as()
    }

    /// The panic that was caught.
    pub fn fault(&self) -> Option<&Fault> {
        self.cause_as()
    }

    fn cause_as<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.cause.as_deref().and_then(|cause| cause.downcast_ref())
    }

    /// The message of this error and of all its sources, joined by colons. It has more than one
    /// line where one of them has. What a plugin wrote is escaped: control characters, all but
    /// line ends and tabs, and marks that turn text around.
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
    /// For people too: a `main` that returns an error shows it so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.full_message(), self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// Reports a mistake of our own: loud in a debug build, an error in a release.
macro_rules! bug {
    ($($message:tt)*) => {{
        let message = format!($($message)*);
        debug_assert!(false, "{message}");
        tracing::error!(message, "a mistake of the host's own");
        $crate::error::Error::new($crate::error::ErrorKind::Internal, message)
    }};
}
pub(crate) use bug;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_and_tells_its_own_level_only() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let name = PluginName::new("echo").expect("a name");
        let error = Error::new(ErrorKind::Plugin, "answered with an error")
            .caused_by(PluginError::new(500, "no"))
            .of(&name)
            .in_generation(GenerationId::after(2));
        assert_eq!(error.to_string(), "plugin `echo` answered with an error");
        assert_eq!(error.full_message(), "plugin `echo` answered with an error: no (code 500)");
        assert_eq!(error.plugin_error().map(PluginError::code), Some(500));
        assert!(error.fault().is_none());
    }
}
