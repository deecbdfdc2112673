//! What the configuration of the host sets for plugins, by their names. It can be replaced while the
//! host runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hotbay_manifest::{Isolation, Limits, Manifest, ManifestError, Sandbox};
use serde_json::{Map, Value};

use crate::id::PluginName;

/// The current settings of all plugins.
#[derive(Debug, Default)]
pub(crate) struct CurrentSettings(ArcSwap<PluginSettings>);

impl CurrentSettings {
    pub(crate) fn new(settings: Arc<PluginSettings>) -> Self {
        Self(ArcSwap::new(settings))
    }

    pub(crate) fn load(&self) -> Arc<PluginSettings> {
        self.0.load_full()
    }

    /// Replaces the settings; returns the previous ones.
    #[cfg_attr(not(feature = "config-file"), allow(dead_code, reason = "only a file changes"))]
    pub(crate) fn replace(&self, settings: Arc<PluginSettings>) -> Arc<PluginSettings> {
        self.0.swap(settings)
    }
}

/// The settings of all plugins.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PluginSettings {
    /// The permissions of plugins without their own; `None` grants all.
    pub(crate) permissions: Option<Grants>,
    /// Bounds of the sandboxes of plugins without their own.
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) plugins: BTreeMap<PluginName, OnePlugin>,
    /// The files of the configuration, by absolute paths.
    pub(crate) files: Vec<PathBuf>,
}

/// The settings of one plugin.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct OnePlugin {
    /// Whether the plugin is not loaded with the others.
    pub(crate) is_disabled: bool,
    /// The folder of an additional instance.
    pub(crate) folder: Option<PathBuf>,
    /// Where its library runs, instead of what the manifest says.
    pub(crate) isolation: Option<Isolation>,
    pub(crate) permissions: Option<Grants>,
    /// Values that replace those of the manifest's config.
    pub(crate) config: Map<String, Value>,
    /// Whether they replace the whole config.
    pub(crate) replaces_config: bool,
    /// The keys of values in the config that are secrets.
    pub(crate) secrets: BTreeSet<Vec<String>>,
    pub(crate) limits: Limits,
    /// Bounds of the sandbox.
    pub(crate) sandbox: Option<Sandbox>,
}

/// Permissions that are granted: single ones, and all that begin with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grants(pub(crate) Vec<String>);

impl Grants {
    fn contains(&self, permission: &str) -> bool {
        self.0.iter().any(|granted| match granted.strip_suffix('*') {
            Some(start) => permission.starts_with(start),
            None => granted == permission,
        })
    }
}

impl PluginSettings {
    /// Returns whether a plugin that requests a permission gets it.
    pub(crate) fn grants(&self, plugin: &PluginName, permission: &str) -> bool {
        self.grants_of(plugin).is_none_or(|grants| grants.contains(permission))
    }

    /// Returns the bounds of all sandboxes.
    pub(super) fn sandboxes(&self) -> impl Iterator<Item = &Sandbox> {
        self.sandbox
            .iter()
            .chain(self.plugins.values().filter_map(|plugin| plugin.sandbox.as_ref()))
    }

    fn grants_of(&self, plugin: &PluginName) -> Option<&Grants> {
        let own = self.plugins.get(plugin).and_then(|plugin| plugin.permissions.as_ref());
        own.or(self.permissions.as_ref())
    }

    /// Returns the single permissions that a plugin is granted by name.
    pub(super) fn named_grants(&self, plugin: &PluginName) -> impl Iterator<Item = &str> {
        let grants = self.grants_of(plugin).into_iter().flat_map(|grants| &grants.0);
        grants.map(String::as_str).filter(|permission| !permission.ends_with('*'))
    }

    /// Returns where a plugin's library runs, if that is set.
    pub(super) fn isolation_of(&self, plugin: &PluginName) -> Option<Isolation> {
        self.plugins.get(plugin)?.isolation
    }

    /// Returns the bounds of a plugin's own sandbox.
    pub(super) fn sandbox_of(&self, plugin: &PluginName) -> Option<&Sandbox> {
        self.plugins.get(plugin)?.sandbox.as_ref()
    }

    pub(super) fn has_config(&self, plugin: &PluginName) -> bool {
        self.plugins.get(plugin).is_some_and(|plugin| !plugin.config.is_empty())
    }

    pub(crate) fn is_disabled(&self, plugin: &PluginName) -> bool {
        self.plugins.get(plugin).is_some_and(|plugin| plugin.is_disabled)
    }

    /// Returns whether `other` means the same for a plugin with this manifest.
    pub(crate) fn is_same_for(&self, manifest: &Manifest, other: &Self) -> bool {
        let plugin = manifest.name();
        let own = |settings: &Self| {
            let plugin = settings.plugins.get(plugin).cloned().unwrap_or_default();
            OnePlugin { permissions: None, ..plugin }
        };
        let mut permissions = manifest.permissions().iter();
        // The bounds apply only to a sandbox of the manifest.
        let is_bounded = manifest.sandbox().is_some() && own(self).sandbox.is_none();
        // What programs can change limits where links in the paths of every sandbox lead.
        let shared = |settings: &Self| -> BTreeSet<String> {
            settings
                .sandboxes()
                .flat_map(|bounds| bounds.write.clone().unwrap_or_default())
                .collect()
        };
        let protected = |settings: &Self| {
            let folders: Vec<_> =
                settings.plugins.values().filter_map(|plugin| plugin.folder.clone()).collect();
            (settings.files.clone(), folders)
        };
        let has_sandbox = manifest.sandbox().is_some() || own(self).sandbox.is_some();
        own(self) == own(other)
            && (!has_sandbox || shared(self) == shared(other))
            && (!has_sandbox || protected(self) == protected(other))
            && (!is_bounded || self.sandbox == other.sandbox)
            && permissions.all(|one| self.grants(plugin, one) == other.grants(plugin, one))
    }

    /// Returns the folder of a plugin that is an additional instance.
    #[cfg_attr(not(feature = "config-file"), allow(dead_code, reason = "only a file changes"))]
    pub(crate) fn folder(&self, plugin: &PluginName) -> Option<&PathBuf> {
        self.plugins.get(plugin)?.folder.as_ref()
    }

    /// Returns the keys of values in a plugin's config that are secrets.
    pub(super) fn secrets_of(&self, plugin: &PluginName) -> BTreeSet<Vec<String>> {
        self.plugins.get(plugin).map(|plugin| plugin.secrets.clone()).unwrap_or_default()
    }

    /// Returns the additional instances: their names and folders.
    pub(crate) fn instances(&self) -> impl Iterator<Item = (&PluginName, &PathBuf)> {
        let enabled = self.plugins.iter().filter(|(_, plugin)| !plugin.is_disabled);
        enabled.filter_map(|(name, plugin)| Some((name, plugin.folder.as_ref()?)))
    }

    /// Returns the manifest with the settings of its plugin. The application's limits come first, and
    /// so does its config, with which `keep_config` is set. `default_isolation` is for plugins without the
    /// setting.
    pub(super) fn apply(
        &self,
        mut manifest: Manifest,
        keep_config: bool,
        limits: Limits,
        default_isolation: Option<Isolation>,
    ) -> Result<Manifest, ManifestError> {
        let isolation = self.isolation_of(manifest.name()).or(default_isolation);
        if let Some(isolation) = isolation {
            manifest = manifest.with_isolation(isolation);
        }
        let Some(plugin) = self.plugins.get(manifest.name()) else { return Ok(manifest) };
        if (!plugin.config.is_empty() || plugin.replaces_config) && !keep_config {
            let before = if plugin.replaces_config { &Value::Null } else { manifest.config() };
            let mut config = before.clone();
            merge(&mut config, &plugin.config);
            manifest = manifest.with_config(config)?;
        }
        if plugin.limits != Limits::default() {
            let limits = limits.or(&plugin.limits).or(manifest.limits());
            manifest = manifest.with_limits(limits)?;
        }
        Ok(manifest)
    }
}

/// Replaces the values of `config`, field by field.
fn merge(config: &mut Value, with: &Map<String, Value>) {
    if !config.is_object() {
        *config = Map::new().into();
    }
    let Value::Object(config) = config else { return };
    for (key, value) in with {
        match value {
            Value::Object(with) => merge(config.entry(key).or_insert(Value::Null), with),
            _ => _ = config.insert(key.clone(), value.clone()),
        }
    }
}

/// Prints no config: it may hold a secret.
impl fmt::Debug for OnePlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnePlugin")
            .field("is_disabled", &self.is_disabled)
            .field("folder", &self.folder)
            .field("permissions", &self.permissions)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
