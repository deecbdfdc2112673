//! The configuration of a host in a `hotbay.toml`, as the builder uses it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use hotbay_manifest::{
    Environment, HostFile, HostLimit, HostSettings, KeySettings, MAX_MANIFEST_BYTES, Origin,
};
use serde_json::Value;

use crate::artifact::digest::Artifact;
use crate::artifact::trust::Trust;
use crate::config::{ConfinementPolicy, HostLimits, Quarantine};
use crate::error::{Error, ErrorKind};
use crate::id::PluginName;
use crate::loader::{Grants, OnePlugin, PluginSettings};
use crate::signatures::TrustedKey;

/// The configuration of a host: a `hotbay.toml` with the files that it includes.
///
/// HOTBAY_TOML.md of `hotbay-manifest` describes its fields.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use hotbay::{ConfigFile, Host};
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("hotbay.toml");
/// std::fs::write(&file, "plugin_dirs = ['plugins']\n[plugins.storage.config]\nfile = 'main.db'\n")?;
/// let config = ConfigFile::read(&file)?;
/// let value = config.values().find(|value| value.path == "plugins.storage.config.file");
/// let value = value.expect("a value");
/// assert_eq!(value.value, Some("main.db".into()));
/// assert_eq!(value.origin.map(|origin| origin.line), Some(3));
/// let host = Host::builder().config(config).build()?;
/// assert!(host.list().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConfigFile {
    path: PathBuf,
    /// The folder that a relative path starts from.
    base: PathBuf,
    /// All files that were read, also those that values are from.
    read_files: Vec<PathBuf>,
    file: HostFile,
    settings: HostSettings,
}

/// One value of a [`ConfigFile`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConfigValue {
    /// The keys that lead to it.
    pub keys: Vec<String>,
    /// The same as one text, such as `plugins.storage.config.file`.
    pub path: String,
    /// The value; `None` if a part of it is from the environment or another file, and thus perhaps a
    /// secret.
    pub value: Option<Value>,
    /// The place that sets it; `None` for a default.
    pub origin: Option<Origin>,
}

impl ConfigValue {
    /// Joins keys as TOML does, with quotes where it needs them.
    ///
    /// ```
    /// let keys = ["plugins", "api.key"].map(str::to_owned);
    /// assert_eq!(hotbay::ConfigValue::path_of(&keys), "plugins.\"api.key\"");
    /// ```
    pub fn path_of(keys: &[String]) -> String {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let key = |key: &String| match !key.is_empty() && key.chars().all(is_bare) {
            true => key.clone(),
            false => format!("{key:?}"),
        };
        keys.iter().map(key).collect::<Vec<_>>().join(".")
    }
}

impl ConfigFile {
    /// Reads a file and those that it includes. They must not be writable by other users.
    ///
    /// # Errors
    ///
    /// `Config`, with all mistakes of the first file that has any, each with line and column.
    pub fn read(file: impl AsRef<Path>) -> Result<Self, Error> {
        Self::read_with(file.as_ref(), Trust::default())
    }

    /// Reads a file like [`read`](Self::read), also if other users may write to it.
    ///
    /// # Errors
    ///
    /// The same as [`read`](Self::read).
    pub fn read_writable_by_others(file: impl AsRef<Path>) -> Result<Self, Error> {
        Self::read_with(file.as_ref(), Trust { allow_writable_by_others: true })
    }

    pub(super) fn read_with(path: &Path, trust: Trust) -> Result<Self, Error> {
        Self::read_from(path, std::env::current_dir().unwrap_or_default(), trust)
    }

    /// Reads the same file, even if the working directory is another one now.
    pub(super) fn read_again(&self, trust: Trust) -> Result<Self, Error> {
        Self::read_from(&self.path, self.base.clone(), trust)
    }

    fn read_from(path: &Path, base: PathBuf, trust: Trust) -> Result<Self, Error> {
        let files = RefCell::new(BTreeSet::new());
        let read = |path: &Path| {
            files.borrow_mut().insert(base.join(path));
            let file = Artifact::read(&base.join(path), MAX_MANIFEST_BYTES as u64);
            let file = file.and_then(|file| file.check_trust(trust).map(|()| file));
            let file = file.map_err(std::io::Error::other)?;
            String::from_utf8(file.bytes().to_vec())
                .map_err(|_| std::io::Error::other("it is not UTF-8 text"))
        };
        let variable = |name: &str| std::env::var_os(name);
        let environment = Environment { read: &read, variable: &variable };
        let file = HostFile::read(path, &environment).map_err(|error| {
            let failed = Error::new(ErrorKind::Config, "invalid configuration of the host");
            failed.with_optional_hint(error.hint()).caused_by(error)
        })?;
        let settings = file.typed();
        let read_files = files.into_inner().into_iter().collect();
        Ok(Self { path: path.to_owned(), base, file, read_files, settings })
    }

    /// Returns the path that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the files that were read: this one, and those that it includes.
    pub fn files(&self) -> &[PathBuf] {
        self.file.files()
    }

    /// Returns all values that are set, sorted by path.
    pub fn values(&self) -> impl Iterator<Item = ConfigValue> {
        self.file.settings().map(|setting| ConfigValue {
            keys: setting.path.clone(),
            path: ConfigValue::path_of(&setting.path),
            value: (!setting.is_secret).then(|| setting.value.clone()),
            origin: Some(setting.origin.clone()),
        })
    }

    /// Returns the values of the host that apply if the file does not set them, sorted by path.
    pub fn defaults(&self) -> impl Iterator<Item = ConfigValue> {
        let limits = limit_values(&HostLimits::default()).into_iter();
        let limits = limits.map(|(name, value)| (format!("limits.{name}"), value));
        let quarantine = quarantine_values(&Quarantine::default()).into_iter();
        let quarantine = quarantine.map(|(name, value)| (format!("quarantine.{name}"), value));
        let flags = [("reload.watch", false), ("reload.unload_removed", true)].into_iter();
        let trust = [("trust.allow_unverified", false), ("trust.allow_writable_by_others", false)];
        let flags = flags.chain(trust).map(|(name, value)| (name.to_owned(), value.into()));
        let mut defaults: BTreeMap<_, _> = limits.chain(quarantine).chain(flags).collect();
        self.values().for_each(|value| _ = defaults.remove(&value.path));
        let value = |(path, value): (String, Value)| ConfigValue {
            keys: path.split('.').map(str::to_owned).collect(),
            path,
            value: Some(value),
            origin: None,
        };
        defaults.into_iter().map(value)
    }

    /// Returns the folders below which plugins are searched, if the file sets them.
    pub fn plugin_dirs(&self) -> Option<&[PathBuf]> {
        self.settings.plugin_dirs.as_deref()
    }

    /// Sets the folders below which plugins are searched, instead of those of the file.
    #[must_use]
    pub fn with_plugin_dirs(mut self, dirs: impl IntoIterator<Item = PathBuf>) -> Self {
        self.settings.plugin_dirs = Some(dirs.into_iter().collect());
        self
    }

    /// Returns the JSON Schema of the file, for editors.
    pub fn json_schema() -> Value {
        HostFile::json_schema()
    }

    /// Returns the keys of all values.
    pub(super) fn keys(&self) -> BTreeSet<Vec<String>> {
        self.file.settings().map(|setting| setting.path.clone()).collect()
    }

    pub(super) fn settings(&self) -> &HostSettings {
        &self.settings
    }

    /// Returns the keys that the file trusts.
    pub(super) fn trusted_keys(&self) -> Result<Vec<TrustedKey>, Error> {
        let key = |(name, settings): (&String, &KeySettings)| {
            if settings.public_key.is_empty() {
                let message = format!("`keys.{name}` has no `public_key`");
                return Err(Error::new(ErrorKind::Config, message));
            }
            let mut key = TrustedKey::new(name, &settings.public_key)?;
            if let Some(plugins) = &settings.plugins {
                key = key.plugins(plugins)?;
            }
            settings.expires.iter().try_fold(key, |key, date| key.expires(date))
        };
        self.settings.keys.iter().map(key).collect()
    }

    /// Sets the limits that the file has.
    pub(super) fn set_limits(&self, limits: &mut HostLimits) {
        for (name, limit) in &self.settings.limits {
            let is_known = set_limit(limits, name, *limit);
            debug_assert!(is_known, "limit `{name}` is in the table of fields but not here");
        }
    }

    /// Returns when plugins are quarantined: `before`, with the values of the file.
    pub(super) fn quarantine(&self, before: Option<Quarantine>) -> Option<Quarantine> {
        let settings = &self.settings;
        if settings.quarantine_enabled == Some(false) {
            return None;
        }
        if settings.quarantine_enabled.is_none() && settings.quarantine.is_empty() {
            return before;
        }
        let mut quarantine = before.unwrap_or_default();
        for (name, limit) in &settings.quarantine {
            match (name.as_str(), number(*limit), time(*limit)) {
                ("max_faults", Some(faults), _) => quarantine.max_faults = narrow(faults),
                ("window", _, Some(time)) => quarantine.window = time,
                ("initial_backoff", _, Some(time)) => quarantine.initial_backoff = time,
                ("max_backoff", _, Some(time)) => quarantine.max_backoff = time,
                _ => debug_assert!(false, "`{name}` is in the table of fields but not here"),
            }
        }
        Some(quarantine)
    }

    /// Returns what is required of the confinement of programs: `before`, with the values of the file.
    pub(super) fn confinement(&self, before: ConfinementPolicy) -> ConfinementPolicy {
        let settings = &self.settings;
        ConfinementPolicy {
            required: settings.sandbox_required.unwrap_or(before.required),
            isolate_libraries: settings
                .sandbox_isolate_libraries
                .unwrap_or(before.isolate_libraries),
            namespaces: settings.sandbox_namespaces.unwrap_or(before.namespaces),
            state_dir: settings.state_dir.clone().or(before.state_dir),
            cgroup: settings.cgroup.clone().or(before.cgroup),
            ..before
        }
    }

    /// Returns what the file sets for plugins.
    pub(super) fn plugin_settings(&self) -> PluginSettings {
        let grants = |permissions: &Option<Vec<String>>| permissions.clone().map(Grants);
        let plugins = self.settings.plugins.iter().map(|(name, plugin)| {
            let one = OnePlugin {
                is_disabled: plugin.enabled == Some(false),
                // One that cannot be resolved fails when it is read.
                folder: plugin
                    .folder
                    .as_ref()
                    .map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.clone())),
                isolation: plugin.isolation,
                permissions: grants(&plugin.permissions),
                config: plugin.config.clone(),
                replaces_config: plugin.replace_config == Some(true),
                secrets: self.secrets_of(name),
                limits: plugin.limits,
                sandbox: plugin.sandbox.clone(),
            };
            (name.clone(), one)
        });
        PluginSettings {
            permissions: grants(&self.settings.permissions),
            sandbox: self.settings.sandbox.clone(),
            plugins: plugins.collect(),
            files: self.read_files.clone(),
        }
    }

    /// Returns the keys of the secrets in the config of a plugin.
    fn secrets_of(&self, plugin: &PluginName) -> BTreeSet<Vec<String>> {
        let secrets = self.file.settings().filter(|setting| setting.is_secret);
        let keys = secrets.filter_map(|setting| match setting.path.as_slice() {
            [first, name, field, keys @ ..]
                if first == "plugins" && name == plugin.as_str() && field == "config" =>
            {
                Some(keys.to_vec())
            }
            _ => None,
        });
        keys.collect()
    }

    /// Returns whether all values are equal, and from the same files.
    pub(super) fn is_same(&self, before: &Self) -> bool {
        self.read_files == before.read_files && self.changed(before).is_empty()
    }

    /// Returns the paths of the values that differ.
    pub(super) fn changed(&self, before: &Self) -> BTreeSet<Vec<String>> {
        let by_path = |file: &'_ HostFile| -> BTreeMap<Vec<String>, Value> {
            let settings = file.settings();
            settings.map(|setting| (setting.path.clone(), setting.value.clone())).collect()
        };
        let (before, after) = (by_path(&before.file), by_path(&self.file));
        let is_changed = |path: &&Vec<String>| before.get(*path) != after.get(*path);
        before.keys().chain(after.keys()).filter(is_changed).cloned().collect()
    }
}

/// Prints no value: it may be a secret.
impl std::fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The configuration that a host follows.
#[derive(Debug, Default)]
pub(super) struct ConfigState {
    pub(super) current: Option<ConfigFile>,
    /// The one with which the host was built, whose values need a restart to change.
    pub(super) built_with: Option<ConfigFile>,
    /// The plugins that do not follow the current configuration.
    pub(super) failed: BTreeSet<PluginName>,
    /// The plugins that were unloaded, since they cannot be confined as it requires.
    pub(super) stopped: BTreeSet<PluginName>,
    /// Dropped to stop the watch.
    pub(super) watching: Option<Sender<()>>,
}

impl ConfigState {
    pub(super) fn new(current: Option<ConfigFile>) -> Self {
        Self { built_with: current.clone(), current, ..Self::default() }
    }

    pub(super) fn stop_watching(&mut self) {
        self.watching = None;
    }
}

/// Sets a limit by its name. Returns whether there is one.
fn set_limit(limits: &mut HostLimits, name: &str, limit: HostLimit) -> bool {
    let count = || narrow(number(limit).unwrap_or_default());
    let bytes = || number(limit).unwrap_or_default();
    // `none` means no limit, which these fields state as zero.
    let duration = || time(limit).unwrap_or_default();
    match name {
        "max_workers" => limits.max_workers = count(),
        "max_queued_calls" => limits.max_queued_calls = count(),
        "max_queue_waiters" => limits.max_queue_waiters = count(),
        "queue_timeout" => limits.queue_timeout = time(limit),
        "max_in_flight" => limits.max_in_flight = number(limit).map(narrow),
        "max_open_streams" => limits.max_open_streams = count(),
        "max_stream_threads" => limits.max_stream_threads = count(),
        "max_abandoned_calls" => limits.max_abandoned_calls = count(),
        "max_memory_bytes" => limits.max_memory_bytes = number(limit),
        "max_call_memory_bytes" => limits.max_call_memory_bytes = number(limit),
        "max_log_lines_per_second" => limits.max_log_lines_per_second = count(),
        "max_input_bytes" => limits.max_input_bytes = bytes(),
        "max_output_bytes" => limits.max_output_bytes = bytes(),
        "max_stack_bytes" => limits.max_stack_bytes = bytes(),
        "max_library_bytes" => limits.max_library_bytes = bytes(),
        "max_retained_libraries" => limits.max_retained_libraries = count(),
        "max_snapshot_bytes" => limits.max_snapshot_bytes = bytes(),
        "max_process_calls" => limits.max_process_calls = count(),
        "process_idle_timeout" => limits.process_idle_timeout = duration(),
        "process_health_timeout" => limits.process_health_timeout = duration(),
        "max_process_descriptors" => limits.max_process_descriptors = number(limit),
        "max_process_cpu_time" => limits.max_process_cpu_time = time(limit),
        "start_timeout" => limits.start_timeout = duration(),
        "drain_timeout" => limits.drain_timeout = duration(),
        "pause_timeout" => limits.pause_timeout = duration(),
        "stop_timeout" => limits.stop_timeout = duration(),
        _ => return false,
    }
    true
}

/// Returns every limit with its name.
fn limit_values(limits: &HostLimits) -> [(&'static str, Value); 26] {
    [
        ("max_workers", limits.max_workers.into()),
        ("max_queued_calls", limits.max_queued_calls.into()),
        ("max_queue_waiters", limits.max_queue_waiters.into()),
        ("queue_timeout", optional_time(limits.queue_timeout)),
        ("max_in_flight", optional(limits.max_in_flight)),
        ("max_open_streams", limits.max_open_streams.into()),
        ("max_stream_threads", limits.max_stream_threads.into()),
        ("max_abandoned_calls", limits.max_abandoned_calls.into()),
        ("max_memory_bytes", optional(limits.max_memory_bytes)),
        ("max_call_memory_bytes", optional(limits.max_call_memory_bytes)),
        ("max_log_lines_per_second", limits.max_log_lines_per_second.into()),
        ("max_input_bytes", limits.max_input_bytes.into()),
        ("max_output_bytes", limits.max_output_bytes.into()),
        ("max_stack_bytes", limits.max_stack_bytes.into()),
        ("max_library_bytes", limits.max_library_bytes.into()),
        ("max_retained_libraries", limits.max_retained_libraries.into()),
        ("max_snapshot_bytes", limits.max_snapshot_bytes.into()),
        ("max_process_calls", limits.max_process_calls.into()),
        ("process_idle_timeout", shown(limits.process_idle_timeout)),
        ("process_health_timeout", shown(limits.process_health_timeout)),
        ("max_process_descriptors", optional(limits.max_process_descriptors)),
        ("max_process_cpu_time", optional_time(limits.max_process_cpu_time)),
        ("start_timeout", shown(limits.start_timeout)),
        ("drain_timeout", shown(limits.drain_timeout)),
        ("pause_timeout", shown(limits.pause_timeout)),
        ("stop_timeout", shown(limits.stop_timeout)),
    ]
}

fn quarantine_values(quarantine: &Quarantine) -> [(&'static str, Value); 5] {
    [
        ("enabled", true.into()),
        ("max_faults", quarantine.max_faults.into()),
        ("window", shown(quarantine.window)),
        ("initial_backoff", shown(quarantine.initial_backoff)),
        ("max_backoff", shown(quarantine.max_backoff)),
    ]
}

fn optional<T: Into<Value>>(number: Option<T>) -> Value {
    number.map_or_else(|| "none".into(), Into::into)
}

fn optional_time(time: Option<Duration>) -> Value {
    time.map_or_else(|| "none".into(), shown)
}

/// Formats a duration such that the file can have it.
fn shown(time: Duration) -> Value {
    format!("{time:?}").into()
}

fn number(limit: HostLimit) -> Option<u64> {
    match limit {
        HostLimit::Number(number) => Some(number),
        _ => None,
    }
}

fn time(limit: HostLimit) -> Option<Duration> {
    match limit {
        HostLimit::Time(time) => Some(time),
        _ => None,
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_of_the_table_is_one_of_the_host() {
        let schema = ConfigFile::json_schema();
        let limits = schema["properties"]["limits"]["properties"].as_object().expect("limits");
        for name in limits.keys() {
            let mut changed = HostLimits::default();
            let values = [HostLimit::Number(7), HostLimit::Time(Duration::from_secs(7))];
            let sets = |value: &HostLimit| {
                assert!(set_limit(&mut changed, name, *value), "{name}");
                changed != HostLimits::default()
            };
            assert!(values.iter().any(sets), "{name}");
        }
        let values = limit_values(&HostLimits::default());
        assert!(limits.keys().eq(BTreeMap::from(values.clone()).keys()));
        assert_eq!(format!("{:?}", HostLimits::default()).matches(": ").count(), values.len());
    }
}
