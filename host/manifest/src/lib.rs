//! Parses `plugin.json` into a [`Manifest`], and decides what depends on manifests alone: whether
//! versions are compatible ([`check_api`], [`check_stamp`]), in which order plugins start
//! ([`start_order`]), and whether a config matches its schema ([`Checker`]).
//!
//! Uses neither disk nor network, and reads no clock except to bound a check against a schema. The
//! crate `hotbay` re-exports what its users need; the rest serves `hotbay` and its tools.

#![forbid(unsafe_code)]

mod build;
#[cfg(feature = "schema")]
mod check;
mod compatible;
mod digest;
mod entries;
mod error;
mod fields;
#[cfg(feature = "host-file")]
mod host_file;
mod name;
mod net_rule;
#[cfg(not(feature = "schema"))]
mod no_check;
mod order;
mod parse;
#[cfg(test)]
mod random_tests;
mod reader;
#[cfg(test)]
mod reference;
mod render;
mod rules;
mod sandbox;
mod schema;
mod schema_error;
mod setters;
#[cfg(test)]
mod shape_tests;
mod signed_files;
mod tree;
mod trusted_key;
mod types;
#[cfg(test)]
mod value_tests;
mod words;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use semver::{Version, VersionReq};

#[cfg(feature = "schema")]
pub use check::Checker;
pub use compatible::{check_api, check_stamp};
pub use digest::{Digest, InvalidDigest};
pub use error::{ApiMismatch, ManifestError, StampMismatch, Unstartable};
#[cfg(feature = "host-file")]
pub use host_file::{
    Environment, HostFile, HostLimit, HostSettings, KeySettings, Keys, Origin, PluginSettings,
    Setting,
};
pub use name::{InvalidName, PluginName, nearest};
pub use net_rule::NetRule;
#[cfg(not(feature = "schema"))]
pub use no_check::Checker;
pub use order::{StartCandidate, StartOrder, start_order};
use render::seal;
pub use sandbox::{Sandbox, SandboxLimits};
use schema::json_schema;
pub use schema_error::{Exceeded, SchemaError, Violation};
pub use signed_files::{
    InvalidSignedFiles, MAX_FOLDER_DEPTH, MAX_FOLDER_ENTRIES, MAX_SIGNED_FILES_BYTES, SIGNATURE,
    SIGNED_FILES, SignaturePolicy, SignedFile, SignedFiles,
};
pub use tree::{MAX_MANIFEST_BYTES, position_of};
pub use trusted_key::{Day, KeyTrust};
pub use types::Types;
pub use words::{Handover, Isolation, Kind, Preset, SandboxRule, SocketType, Unload};

/// The content of a `plugin.json`.
///
/// [`Manifest::parse`] reads it from text. [`Manifest::new`] and the `with_…` methods make it in
/// code, for a plugin that is compiled into the host. Every value is valid by itself; whether it
/// suits a host is checked when the plugin is loaded.
///
/// ```
/// # use std::path::Path;
/// # use hotbay::manifest::{Kind, Manifest};
/// let text = r#"{ "name": "transform", "version": "0.1.0", "api": "^1.0" }"#;
/// let manifest = Manifest::parse(text, Path::new("plugins/transform/plugin.json"))?;
/// assert_eq!(manifest.name().as_str(), "transform");
/// assert_eq!(manifest.kind(), Kind::Library);
/// assert_eq!(manifest.library_stem().as_deref(), Some("transform"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub(crate) name: PluginName,
    pub(crate) package: String,
    pub(crate) version: Version,
    pub(crate) api: VersionReq,
    pub(crate) kind: Kind,
    pub(crate) library: Option<String>,
    pub(crate) isolation: Isolation,
    pub(crate) command: Vec<String>,
    pub(crate) socket_type: SocketType,
    pub(crate) description: Option<String>,
    pub(crate) authors: Vec<String>,
    pub(crate) license: Option<String>,
    pub(crate) homepage: Option<String>,
    /// Always an object.
    pub(crate) config: serde_json::Value,
    pub(crate) config_schema: Option<ConfigSchema>,
    pub(crate) input_schema: Option<ConfigSchema>,
    pub(crate) provides: Vec<Provided>,
    pub(crate) requires: BTreeMap<PluginName, VersionReq>,
    pub(crate) limits: Limits,
    pub(crate) handover: Handover,
    pub(crate) unload: Unload,
    pub(crate) permissions: BTreeSet<String>,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) sha256: Option<Digest>,
    pub(crate) length: Option<u64>,
}

/// The JSON Schema of a plugin's config or input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSchema {
    /// The schema itself, always an object.
    Inline(serde_json::Value),
    /// The path of a file in the plugin's folder: relative, without `..`.
    File(String),
}

/// A contract that a plugin provides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provided {
    /// The contract's name, by which callers find the plugin.
    pub contract: String,
    /// The version of the contract.
    pub version: Version,
    /// The endpoints that serve its methods, by method; only for a program that does not describe the
    /// contract in its capabilities.
    pub methods: BTreeMap<String, MappedMethod>,
}

/// An endpoint of a program that serves a method of a contract.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MappedMethod {
    /// The endpoint: a path without `/` at either end.
    pub endpoint: String,
    /// The method's only argument, which is the body of a request. Without it, the body is a JSON
    /// object with all arguments.
    pub body: Option<String>,
}

/// Limits that a plugin requests, bounded by those of the host. `None` requests the host's limit.
///
/// ```
/// use hotbay::Manifest;
/// use hotbay::manifest::Limits;
///
/// let limits = Limits::default().with_workers(Some(2)).with_input_bytes(Some(1 << 20));
/// let manifest = Manifest::new("echo", "1.0.0")?.with_limits(limits)?;
/// assert_eq!(manifest.limits().workers, Some(2));
/// # Ok::<(), hotbay::ManifestError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum time of a pooled call, in whole milliseconds. It does not interrupt calls on the
    /// caller's thread.
    pub deadline: Option<Duration>,
    /// Number of threads that run the plugin's calls.
    pub workers: Option<u32>,
    /// Maximum number of calls that wait for a worker.
    pub queue: Option<u32>,
    /// Maximum number of calls that run at the same time.
    pub in_flight: Option<u32>,
    /// Maximum memory of the plugin, in bytes.
    pub memory_bytes: Option<u64>,
    /// Maximum memory that one call of a library holds at once on its thread, in bytes.
    pub call_memory_bytes: Option<u64>,
    /// Maximum size of an input, in bytes.
    pub input_bytes: Option<u64>,
    /// Maximum size of an output, in bytes.
    pub output_bytes: Option<u64>,
    /// Stack size of each of the plugin's workers, in bytes.
    pub stack_bytes: Option<u64>,
    /// Maximum number of streams of the plugin that are open at the same time.
    pub open_streams: Option<u32>,
}

setters!(Limits {
    with_deadline => deadline: Option<Duration>,
    with_workers => workers: Option<u32>,
    with_queue => queue: Option<u32>,
    with_in_flight => in_flight: Option<u32>,
    with_memory_bytes => memory_bytes: Option<u64>,
    with_call_memory_bytes => call_memory_bytes: Option<u64>,
    with_input_bytes => input_bytes: Option<u64>,
    with_output_bytes => output_bytes: Option<u64>,
    with_stack_bytes => stack_bytes: Option<u64>,
    with_open_streams => open_streams: Option<u32>,
});

impl Limits {
    /// Returns these limits, with those of `other` in place of each that is `None`.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            deadline: self.deadline.or(other.deadline),
            workers: self.workers.or(other.workers),
            queue: self.queue.or(other.queue),
            in_flight: self.in_flight.or(other.in_flight),
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            call_memory_bytes: self.call_memory_bytes.or(other.call_memory_bytes),
            input_bytes: self.input_bytes.or(other.input_bytes),
            output_bytes: self.output_bytes.or(other.output_bytes),
            stack_bytes: self.stack_bytes.or(other.stack_bytes),
            open_streams: self.open_streams.or(other.open_streams),
        }
    }
}

impl Manifest {
    /// Parses the text of a `plugin.json`; `file` is only used in messages.
    ///
    /// The text is strict JSON of at most 1 MiB, nested at most 64 levels deep. A byte order mark
    /// is skipped.
    ///
    /// # Errors
    ///
    /// Returns all mistakes, each with its line and column; if the text is not JSON, the first one.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ManifestError> {
        parse::manifest(text, file)
    }

    /// Returns the same text with `sha256` and `length` set, in the author's layout.
    ///
    /// # Errors
    ///
    /// Returns the mistakes of the text; its previous digest and length are not checked.
    pub fn seal_text(text: &str, sha256: &Digest, length: u64) -> Result<String, ManifestError> {
        seal(text, sha256, length)
    }

    /// Returns the JSON Schema (draft 2020-12) of `plugin.json`.
    pub fn json_schema() -> serde_json::Value {
        json_schema()
    }

    /// Returns the plugin's name, unique in a host.
    pub fn name(&self) -> &PluginName {
        &self.name
    }

    /// Returns the package name in the library's stamp; by default the plugin's name.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// Returns the plugin's version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Returns the versions of `hotbay-plugin` that the plugin works with.
    pub fn api(&self) -> &VersionReq {
        &self.api
    }

    /// Returns whether the plugin is a library or a process.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the stem of the library's file, without the platform's prefix and suffix.
    ///
    /// It is `library` if set, else the package's name with `-` replaced by `_`, as Cargo names it.
    /// `None` for a process.
    pub fn library_stem(&self) -> Option<Cow<'_, str>> {
        match (self.kind, &self.library) {
            (Kind::Process, _) => None,
            (Kind::Library, Some(stem)) => Some(stem.into()),
            (Kind::Library, None) => Some(rules::default_stem(&self.package).into()),
        }
    }

    /// Returns the program, relative to the plugin's folder, and its arguments; empty for a
    /// library.
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// Returns the description of the plugin.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Returns the authors of the plugin.
    pub fn authors(&self) -> &[String] {
        &self.authors
    }

    /// Returns the plugin's license, as its author wrote it.
    pub fn license(&self) -> Option<&str> {
        self.license.as_deref()
    }

    /// Returns the URL of the plugin's website.
    pub fn homepage(&self) -> Option<&str> {
        self.homepage.as_deref()
    }

    /// Returns the plugin's config, always an object.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// Returns the JSON Schema of the config, if there is one.
    pub fn config_schema(&self) -> Option<&ConfigSchema> {
        self.config_schema.as_ref()
    }

    /// Returns the JSON Schema of each call's input, if there is one.
    pub fn input_schema(&self) -> Option<&ConfigSchema> {
        self.input_schema.as_ref()
    }

    /// Returns both schemas, each with the name of its field.
    pub fn schemas(&self) -> [(&'static str, Option<&ConfigSchema>); 2] {
        [("config_schema", self.config_schema()), ("input_schema", self.input_schema())]
    }

    /// Returns the contracts that the plugin provides.
    pub fn provides(&self) -> &[Provided] {
        &self.provides
    }

    /// Returns the plugins that must run before this one, with the accepted versions.
    pub fn requires(&self) -> &BTreeMap<PluginName, VersionReq> {
        &self.requires
    }

    /// Returns the limits that the plugin requests.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the type of the socket on which a process plugin should listen.
    pub fn socket_type(&self) -> SocketType {
        self.socket_type
    }

    /// Returns where a library runs: in the host's process, or in its own.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Returns how a reload moves the state to the next build.
    pub fn handover(&self) -> Handover {
        self.handover
    }

    /// Returns whether the library may be unmapped after an unload.
    pub fn unload(&self) -> Unload {
        self.unload
    }

    /// Returns the requested permissions: services of the host (`log`, `metrics`, `call:NAME`,
    /// `contract:NAME`), and operations of requests (`read`, `write`, `exec`, and those that the
    /// application defines).
    pub fn permissions(&self) -> &BTreeSet<String> {
        &self.permissions
    }

    /// Returns what the plugin's process may do; `None` if the manifest does not restrict it.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref()
    }

    /// Returns the SHA-256 of the library or program, if the manifest is sealed.
    ///
    /// It covers only that one file, not the manifest, schema files or files beside a program; the
    /// host checks their owners, modes and links instead.
    pub fn sha256(&self) -> Option<&Digest> {
        self.sha256.as_ref()
    }

    /// Returns the length of the library or program in bytes, if the manifest is sealed.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Returns the manifest without its digest and length.
    #[must_use]
    pub fn without_seal(&self) -> Self {
        Self { sha256: None, length: None, ..self.clone() }
    }
}

impl Limits {
    /// Returns every limit with its name in the manifest.
    pub fn entries(&self) -> [(&'static str, Option<u64>); 10] {
        [
            ("deadline_ms", self.deadline.map(whole_millis)),
            ("workers", self.workers.map(u64::from)),
            ("queue", self.queue.map(u64::from)),
            ("in_flight", self.in_flight.map(u64::from)),
            ("memory_bytes", self.memory_bytes),
            ("call_memory_bytes", self.call_memory_bytes),
            ("input_bytes", self.input_bytes),
            ("output_bytes", self.output_bytes),
            ("stack_bytes", self.stack_bytes),
            ("open_streams", self.open_streams.map(u64::from)),
        ]
    }

    /// Sets the limit `name`; the bounds in the table keep the `u32` ones in range.
    fn set(&mut self, name: &str, number: u64) {
        let as_u32 = u32::try_from(number).ok();
        match name {
            "deadline_ms" => self.deadline = Some(Duration::from_millis(number)),
            "workers" => self.workers = as_u32,
            "queue" => self.queue = as_u32,
            "in_flight" => self.in_flight = as_u32,
            "memory_bytes" => self.memory_bytes = Some(number),
            "call_memory_bytes" => self.call_memory_bytes = Some(number),
            "input_bytes" => self.input_bytes = Some(number),
            "output_bytes" => self.output_bytes = Some(number),
            "stack_bytes" => self.stack_bytes = Some(number),
            "open_streams" => self.open_streams = as_u32,
            _ => debug_assert!(false, "limit `{name}` is in the table but not here"),
        }
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
