//! The reading room: text to `Manifest`, and what follows from manifests alone: whether versions
//! suit each other, in which order plugins start, whether a config fits its schema.
//! Pure: no disk, no clock, no network.

#[cfg(test)]
mod budget_tests;
mod build;
mod checker;
mod compatible;
mod digest;
mod expansion;
mod fields;
mod metered;
mod order;
mod parse;
#[cfg(test)]
mod random_tests;
mod render;
mod resources;
mod rules;
mod schema;
mod seal;
#[cfg(test)]
mod shape_tests;
mod steps;
mod tree;
mod types;
#[cfg(test)]
mod value_tests;
mod violations;
mod words;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use semver::{Version, VersionReq};

pub(crate) use checker::Checker;
pub(crate) use compatible::{check_api, check_stamp};
pub use digest::{Digest, InvalidDigest};
pub(crate) use order::{Applicant, start_order};
pub(crate) use schema::json_schema;
pub(crate) use seal::sealed;
pub(crate) use tree::{MANIFEST_BYTES_MAX, position_of};
pub(crate) use types::Types;
pub use words::{Handover, Kind, SocketType, Unload};

use crate::error::manifest::ManifestError;
use crate::id::PluginName;

use crate::setters::setters;

/// What a plugin says about itself: the content of its plugin.json.
///
/// Read from text by [`Manifest::parse`]; made in code, for a plugin that is compiled into the
/// host, by [`Manifest::new`] and the `with_…` methods. Every value has been checked on its own;
/// whether it suits a host is found out when the plugin is loaded.
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
    pub(crate) sha256: Option<Digest>,
    pub(crate) length: Option<u64>,
}

/// Where the JSON Schema of a plugin's config is, or that of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigSchema {
    /// The schema itself, always an object.
    Inline(serde_json::Value),
    /// The name of a file in the plugin's folder; it has no `..` and is not absolute.
    File(String),
}

/// A contract that a plugin fulfils.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provided {
    /// The contract's name, by which callers look the plugin up.
    pub contract: String,
    /// The version of the contract.
    pub version: Version,
}

/// Limits that a plugin asks for; `None` is the host's own limit, which also bounds the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest time a pooled call may take, in milliseconds. Calls in the caller's thread come
    /// back when the plugin does.
    pub deadline_ms: Option<u64>,
    /// Threads that run the plugin's calls.
    pub workers: Option<u32>,
    /// Most calls that wait for a worker.
    pub queue: Option<u32>,
    /// Most calls that run at the same time.
    pub in_flight: Option<u32>,
    /// Most memory the plugin may hold, in bytes.
    pub memory_bytes: Option<u64>,
    /// Longest input of a call, in bytes.
    pub input_bytes: Option<u64>,
    /// Longest output of a call, in bytes.
    pub output_bytes: Option<u64>,
    /// Stack of each of the plugin's workers, in bytes.
    pub stack_bytes: Option<u64>,
}

setters!(Limits {
    with_deadline_ms => deadline_ms: Option<u64>,
    with_workers => workers: Option<u32>,
    with_queue => queue: Option<u32>,
    with_in_flight => in_flight: Option<u32>,
    with_memory_bytes => memory_bytes: Option<u64>,
    with_input_bytes => input_bytes: Option<u64>,
    with_output_bytes => output_bytes: Option<u64>,
    with_stack_bytes => stack_bytes: Option<u64>,
});

impl Limits {
    /// Returns these limits, with those of `other` in place of each that is `None`.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            deadline_ms: self.deadline_ms.or(other.deadline_ms),
            workers: self.workers.or(other.workers),
            queue: self.queue.or(other.queue),
            in_flight: self.in_flight.or(other.in_flight),
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            input_bytes: self.input_bytes.or(other.input_bytes),
            output_bytes: self.output_bytes.or(other.output_bytes),
            stack_bytes: self.stack_bytes.or(other.stack_bytes),
        }
    }
}

impl Manifest {
    /// Reads the text of a plugin.json; `file` is only its label in messages.
    ///
    /// The text is strict JSON of at most 1 MiB, nested at most 64 deep; a byte order mark is
    /// skipped.
    ///
    /// # Errors
    ///
    /// All mistakes, each with its line and column; if the text is not JSON, the first one.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ManifestError> {
        parse::manifest(text, file)
    }

    /// The same text with `sha256` and `length` set, in the author's layout.
    ///
    /// # Errors
    ///
    /// The mistakes of the text; digest and length that it had are not looked at.
    pub fn seal_text(text: &str, sha256: &Digest, length: u64) -> Result<String, ManifestError> {
        sealed(text, sha256, length)
    }

    /// The JSON Schema (draft 2020-12) of plugin.json.
    pub fn json_schema() -> serde_json::Value {
        json_schema()
    }

    /// The plugin's name, unique in a host.
    pub fn name(&self) -> &PluginName {
        &self.name
    }

    /// The library's own name, as its stamp tells it; by default the plugin's name.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// The plugin's version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The versions of `hotbay-plugin` that the plugin works with.
    pub fn api(&self) -> &VersionReq {
        &self.api
    }

    /// What the plugin is built into.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stem of the library's file, without prefix and suffix of the platform.
    ///
    /// It is `library` where that is given, else the package's name with `-` as `_`, as Cargo
    /// names it; `None` for a process.
    pub fn library_stem(&self) -> Option<Cow<'_, str>> {
        match (self.kind, &self.library) {
            (Kind::Process, _) => None,
            (Kind::Library, Some(stem)) => Some(stem.into()),
            (Kind::Library, None) => Some(rules::default_stem(&self.package).into()),
        }
    }

    /// The program, relative to the plugin's folder, and its arguments; empty for a library.
    pub fn command(&self) -> &[String] {
        &self.command
    }

    /// What the plugin does, in a sentence.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Who wrote the plugin.
    pub fn authors(&self) -> &[String] {
        &self.authors
    }

    /// The plugin's license, as its author wrote it.
    pub fn license(&self) -> Option<&str> {
        self.license.as_deref()
    }

    /// Where more about the plugin can be read.
    pub fn homepage(&self) -> Option<&str> {
        self.homepage.as_deref()
    }

    /// The plugin's config, always an object.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// The JSON Schema of the config, if there is one.
    pub fn config_schema(&self) -> Option<&ConfigSchema> {
        self.config_schema.as_ref()
    }

    /// The JSON Schema of each call's input, if there is one.
    pub fn input_schema(&self) -> Option<&ConfigSchema> {
        self.input_schema.as_ref()
    }

    /// Both schemas, each with the name of its field.
    pub(crate) fn schemas(&self) -> [(&'static str, Option<&ConfigSchema>); 2] {
        [("config_schema", self.config_schema()), ("input_schema", self.input_schema())]
    }

    /// The contracts that the plugin fulfils.
    pub fn provides(&self) -> &[Provided] {
        &self.provides
    }

    /// The plugins that must run before this one, with the versions that are accepted.
    pub fn requires(&self) -> &BTreeMap<PluginName, VersionReq> {
        &self.requires
    }

    /// The limits that the plugin asks for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The socket that a process plugin is asked to listen at.
    pub fn socket_type(&self) -> SocketType {
        self.socket_type
    }

    /// How a reload passes state on.
    pub fn handover(&self) -> Handover {
        self.handover
    }

    /// Whether a retired library may be unmapped.
    pub fn unload(&self) -> Unload {
        self.unload
    }

    /// What the plugin may use of its host: `log`, `metrics`, `call:NAME`; and what it may be
    /// asked to do: `read`, `write`, `exec`, and words of the application.
    pub fn permissions(&self) -> &BTreeSet<String> {
        &self.permissions
    }

    /// The SHA-256 of the library or program, if the manifest is sealed.
    ///
    /// It covers that one file. Neither the manifest itself nor schema files nor what lies beside
    /// a program are covered: of these, owners, modes and links are checked.
    pub fn sha256(&self) -> Option<&Digest> {
        self.sha256.as_ref()
    }

    /// The length of the library or program in bytes, if the manifest is sealed.
    pub fn length(&self) -> Option<u64> {
        self.length
    }
}

impl Limits {
    /// Every limit with its name in the manifest.
    pub(crate) fn entries(&self) -> [(&'static str, Option<u64>); 8] {
        [
            ("deadline_ms", self.deadline_ms),
            ("workers", self.workers.map(u64::from)),
            ("queue", self.queue.map(u64::from)),
            ("in_flight", self.in_flight.map(u64::from)),
            ("memory_bytes", self.memory_bytes),
            ("input_bytes", self.input_bytes),
            ("output_bytes", self.output_bytes),
            ("stack_bytes", self.stack_bytes),
        ]
    }

    /// Sets the limit called `name`; the table's bounds keep the small ones within `u32`.
    fn set(&mut self, name: &str, number: u64) {
        let small = u32::try_from(number).ok();
        match name {
            "deadline_ms" => self.deadline_ms = Some(number),
            "workers" => self.workers = small,
            "queue" => self.queue = small,
            "in_flight" => self.in_flight = small,
            "memory_bytes" => self.memory_bytes = Some(number),
            "input_bytes" => self.input_bytes = Some(number),
            "output_bytes" => self.output_bytes = Some(number),
            "stack_bytes" => self.stack_bytes = Some(number),
            _ => debug_assert!(false, "limit `{name}` stands in the table and not here"),
        }
    }
}
