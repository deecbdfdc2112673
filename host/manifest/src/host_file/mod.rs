//! `hotbay.toml`: the configuration of a host, with its included files. The caller reads files and
//! variables.

mod fields;
mod interpolate;
mod keys;
mod parse;
#[cfg(test)]
mod reference;
mod setting;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use fields::HOST_FILE;
pub use keys::{KeySettings, Keys};
use parse::{Include, parse, parse_duration};
pub use setting::{Environment, Origin, Setting};

use crate::error::{ManifestError, Problem};
use crate::name::PluginName;
use crate::signed_files::SignaturePolicy;
use crate::words::Isolation;
use crate::{Limits, Sandbox};

/// Maximum number of files that one file includes, directly or not.
const MAX_INCLUDED: usize = 64;

/// The configuration of a host: a `hotbay.toml` and the files that it includes.
#[derive(Clone, Debug, PartialEq)]
pub struct HostFile {
    /// By path, so that each has one value.
    settings: BTreeMap<Vec<String>, Setting>,
    files: Vec<PathBuf>,
}

/// The values of the configuration by their meaning. `None` and empty collections mean that the
/// default applies.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HostSettings {
    /// Folders below which plugins are searched.
    pub plugin_dirs: Option<Vec<PathBuf>>,
    /// Folder for private copies of libraries.
    pub staging_dir: Option<PathBuf>,
    /// The program that runs isolated libraries.
    pub runner: Option<PathBuf>,
    /// Time limit of pooled calls without a deadline.
    pub default_deadline: Option<Duration>,
    /// Variables that processes get.
    pub environment: Vec<String>,
    /// Whether libraries without a digest are accepted.
    pub allow_unverified: Option<bool>,
    /// Whether files that other users may write to are accepted.
    pub allow_writable_by_others: Option<bool>,
    /// Whether plugins must be signed.
    pub signatures: Option<SignaturePolicy>,
    /// Keys whose signatures are trusted.
    pub keys: Keys,
    /// Whether changes on disk are followed.
    pub watch: Option<bool>,
    /// Interval of the polls for changes.
    pub poll_interval: Option<Duration>,
    /// Whether a plugin whose folder is gone is unloaded.
    pub unload_removed: Option<bool>,
    /// Limits of the host by name.
    pub limits: BTreeMap<String, HostLimit>,
    /// Whether plugins with repeated faults are quarantined.
    pub quarantine_enabled: Option<bool>,
    /// The parameters of quarantines by name.
    pub quarantine: BTreeMap<String, HostLimit>,
    /// Permissions that all plugins get; `None` grants all.
    pub permissions: Option<Vec<String>>,
    /// Bounds of the sandboxes of all plugins without their own.
    pub sandbox: Option<Sandbox>,
    /// Whether all confined programs run in new namespaces.
    pub sandbox_namespaces: Option<bool>,
    /// Whether all programs must be confined as their sandboxes say.
    pub sandbox_required: Option<bool>,
    /// Whether each library runs in its own process.
    pub sandbox_isolate_libraries: Option<bool>,
    /// Folder for the state of confined plugins.
    pub state_dir: Option<PathBuf>,
    /// A delegated folder of control groups.
    pub cgroup: Option<PathBuf>,
    /// Preferred plugins by contract.
    pub providers: BTreeMap<String, Vec<PluginName>>,
    /// Settings of single plugins.
    pub plugins: BTreeMap<PluginName, PluginSettings>,
}

/// The value of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostLimit {
    /// A number.
    Number(u64),
    /// A time.
    Time(Duration),
    /// `none`.
    None,
}

/// The settings of one plugin.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PluginSettings {
    /// Whether the plugin is loaded with all others.
    pub enabled: Option<bool>,
    /// The folder of an additional instance.
    pub folder: Option<PathBuf>,
    /// Where its library runs, instead of what the manifest says.
    pub isolation: Option<Isolation>,
    /// Permissions that are granted, instead of the default ones.
    pub permissions: Option<Vec<String>>,
    /// Values of the config, which replace those of the manifest.
    pub config: Map<String, Value>,
    /// Whether `config` replaces that of the manifest as a whole.
    pub replace_config: Option<bool>,
    /// Limits, which replace those of the manifest.
    pub limits: Limits,
    /// Bounds of the sandbox.
    pub sandbox: Option<Sandbox>,
}

impl HostFile {
    /// Reads `file` and the files that it includes.
    ///
    /// # Errors
    ///
    /// Returns all mistakes of the first file that has any, each with line and column.
    pub fn read(file: &Path, environment: &Environment<'_>) -> Result<Self, ManifestError> {
        let text = (environment.read)(file).map_err(|error| {
            let problem = Problem::Unreadable { reason: error.to_string() };
            ManifestError::new(&file.display().to_string(), None, "", problem)
        })?;
        let mut read = Self { settings: BTreeMap::new(), files: Vec::new() };
        read.add(file, &text, &mut Vec::new(), environment)?;
        Ok(read)
    }

    /// Adds the values of a file, whose included files come first.
    fn add(
        &mut self,
        file: &Path,
        text: &str,
        including: &mut Vec<PathBuf>,
        environment: &Environment<'_>,
    ) -> Result<(), ManifestError> {
        self.files.push(file.to_owned());
        let parsed = parse(text, file, environment)?;
        including.push(file.to_owned());
        for include in &parsed.includes {
            self.include(include, including, environment)?;
        }
        including.pop();
        for setting in parsed.settings {
            self.set(setting);
        }
        Ok(())
    }

    fn include(
        &mut self,
        include: &Include,
        including: &mut Vec<PathBuf>,
        environment: &Environment<'_>,
    ) -> Result<(), ManifestError> {
        let path = normalized(&include.path);
        let refuse = |expected: String| Err(parse::not_included(include, expected));
        if let Some(at) = including.iter().position(|file| normalized(file) == path) {
            let circle = including[at..].iter().chain([&include.path]);
            let circle: Vec<_> = circle.map(|file| format!("`{}`", file.display())).collect();
            let circle = circle.join(" → ");
            return refuse(format!("a file that does not include this one ({circle})"));
        }
        if self.files.len() > MAX_INCLUDED {
            return refuse(format!("at most {MAX_INCLUDED} included files"));
        }
        match (environment.read)(&include.path) {
            Ok(text) => self.add(&include.path, &text, including, environment),
            Err(error) => refuse(format!("the path of a file that can be read: {error}")),
        }
    }

    /// Sets a value in place of an earlier one, and of those that cannot exist beside it.
    fn set(&mut self, setting: Setting) {
        let is_below = |path: &Vec<String>| path.starts_with(&setting.path);
        let below = self.settings.range(setting.path.clone()..).map(|(path, _)| path);
        let below: Vec<_> = below.take_while(|path| is_below(path)).cloned().collect();
        // An empty section changes no values of another file, unless it means something: no ports.
        let is_section = parse::is_in_sandbox(&setting.path) && setting.value.is_object();
        let is_net = setting.path.last().is_some_and(|key| key == "net");
        if is_section && !is_net && !below.is_empty() {
            return;
        }
        for length in 1..setting.path.len() {
            self.settings.remove(&setting.path[..length]);
        }
        below.iter().for_each(|path| drop(self.settings.remove(path)));
        self.settings.insert(setting.path.clone(), setting);
    }

    /// Returns all values, sorted by path.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.settings.values()
    }

    /// Returns the files that were read: this one, and those that it includes.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Returns the values by their meaning.
    pub fn typed(&self) -> HostSettings {
        let mut found = HostSettings::default();
        for setting in self.settings.values() {
            let path: Vec<_> = setting.path.iter().map(String::as_str).collect();
            found.set(&path, &setting.value);
        }
        found
    }

    /// Returns the JSON Schema (draft 2020-12) of `hotbay.toml`.
    pub fn json_schema() -> Value {
        crate::schema::schema_of(HOST_FILE, "hotbay.toml, the configuration of a hotbay host")
    }
}

impl HostSettings {
    /// Sets the value at a path, which the table of fields has checked.
    fn set(&mut self, path: &[&str], value: &Value) {
        let text = || value.as_str().unwrap_or_default();
        let flag = value.as_bool();
        match path {
            ["plugin_dirs"] => self.plugin_dirs = Some(texts(value).map(PathBuf::from).collect()),
            ["staging_dir"] => self.staging_dir = Some(text().into()),
            ["runner"] => self.runner = Some(text().into()),
            ["default_deadline"] => self.default_deadline = parse_duration(text()),
            ["environment"] => self.environment = texts(value).map(str::to_owned).collect(),
            ["trust", "allow_unverified"] => self.allow_unverified = flag,
            ["trust", "allow_writable_by_others"] => self.allow_writable_by_others = flag,
            ["signatures"] => self.signatures = keys::policy(value),
            ["keys", name, field] => {
                self.keys.entry((*name).to_owned()).or_default().set(field, value);
            }
            ["reload", "watch"] => self.watch = flag,
            ["reload", "poll_interval"] => self.poll_interval = parse_duration(text()),
            ["reload", "unload_removed"] => self.unload_removed = flag,
            ["limits", name] => _ = self.limits.insert((*name).to_owned(), limit(value)),
            ["quarantine", "enabled"] => self.quarantine_enabled = flag,
            ["quarantine", name] => {
                self.quarantine.insert((*name).to_owned(), limit(value));
            }
            ["permissions", "default"] => {
                self.permissions = Some(texts(value).map(str::to_owned).collect());
            }
            ["sandbox", "required"] => self.sandbox_required = flag,
            ["sandbox", "isolate_libraries"] => self.sandbox_isolate_libraries = flag,
            ["sandbox", "namespaces"] => self.sandbox_namespaces = flag,
            ["sandbox", "state_dir"] => self.state_dir = Some(text().into()),
            ["sandbox", "cgroup"] => self.cgroup = Some(text().into()),
            ["sandbox"] => {}
            ["sandbox", path @ ..] => set_bounds(&mut self.sandbox, path, value),
            ["providers", contract] => {
                let names = texts(value).filter_map(|name| PluginName::new(name).ok());
                self.providers.insert((*contract).to_owned(), names.collect());
            }
            ["plugins", name, path @ ..] => {
                if let Ok(name) = PluginName::new(name) {
                    self.plugins.entry(name).or_default().set(path, value);
                }
            }
            _ => debug_assert!(false, "{path:?} is in the table of fields but not here"),
        }
    }
}

impl PluginSettings {
    fn set(&mut self, path: &[&str], value: &Value) {
        match path {
            ["enabled"] => self.enabled = value.as_bool(),
            ["isolation"] => self.isolation = value.as_str().and_then(Isolation::from_word),
            ["folder"] => self.folder = value.as_str().map(PathBuf::from),
            ["permissions"] => {
                self.permissions = Some(texts(value).map(str::to_owned).collect());
            }
            ["limits", name] => self.limits.set(name, value.as_u64().unwrap_or_default()),
            ["sandbox", path @ ..] => set_bounds(&mut self.sandbox, path, value),
            ["replace_config"] => self.replace_config = value.as_bool(),
            ["config"] => {}
            ["config", path @ .., name] => {
                let mut object = &mut self.config;
                for key in path {
                    let next = object.entry(*key).or_insert_with(|| Map::new().into());
                    let Value::Object(next) = next else { return };
                    object = next;
                }
                object.insert((*name).to_owned(), value.clone());
            }
            _ => debug_assert!(false, "{path:?} is in the table of fields but not here"),
        }
    }
}

/// Prints no config: it may have a secret.
impl std::fmt::Debug for PluginSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginSettings")
            .field("enabled", &self.enabled)
            .field("folder", &self.folder)
            .field("isolation", &self.isolation)
            .field("permissions", &self.permissions)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Sets a value of the bounds of sandboxes.
fn set_bounds(bounds: &mut Option<Sandbox>, path: &[&str], value: &Value) {
    let bounds = bounds.get_or_insert_default();
    // A section without values.
    if !value.as_object().is_some_and(Map::is_empty) {
        bounds.set(path, value);
    }
    // Bounds of one direction grant no ports of the other.
    if path.first() == Some(&"net") {
        bounds.connect.get_or_insert_default();
        bounds.listen.get_or_insert_default();
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn limit(value: &Value) -> HostLimit {
    match value.as_u64() {
        Some(number) => HostLimit::Number(number),
        None => value.as_str().and_then(parse_duration).map_or(HostLimit::None, HostLimit::Time),
    }
}

/// Removes `.` and `..` from a path, without the disk.
fn normalized(path: &Path) -> PathBuf {
    let mut normalized = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if normalized.file_name().is_some() => {
                normalized.pop();
            }
            _ => normalized.push(component),
        }
    }
    normalized
}
