//! The first steps of a load: reads a folder and checks it against its manifest. Reads no bytes of
//! the library yet.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotbay_manifest::{
    Isolation, Kind, Limits, MAX_MANIFEST_BYTES, Manifest, ManifestError, SchemaError, Unstartable,
};
use hotbay_plugin::Snapshot;
use serde_json::Value;

use super::settings::PluginSettings;
use crate::artifact::digest::Artifact;
use crate::artifact::signature::{Extent, Signature, SignedPlugin, relative};
use crate::artifact::trust::Rules;
use crate::artifact::{discover, locate, trust};
use crate::config::ConfinementPolicy;
use crate::error::artifact::ArtifactError;
use crate::error::{Error, ErrorKind, LoadStep, bug};
use crate::id::{GenerationId, PluginName};
use crate::signatures::SignaturePolicy;

/// A plugin that may be loaded, according to its manifest.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) manifest: Manifest,
    /// Its folder; `None` if compiled in.
    pub(crate) folder: Option<PathBuf>,
    /// The text of the manifest.
    pub(super) text: String,
    /// The name in the text; an instance has another one.
    stated_name: PluginName,
    /// What is known about the signature of the folder.
    pub(crate) signature: Signature,
    /// The generation that keeps serving if this load fails.
    pub(crate) serving: Option<GenerationId>,
    /// The permissions that it has: those that the settings grant, until the application decides.
    pub(super) granted: BTreeSet<String>,
    /// The application's replacements for fields of the manifest.
    pub(crate) options: Arc<LoadOptions>,
    /// Whether its config is not only that of its file.
    pub(super) is_config_replaced: bool,
    /// What the configuration of the host sets.
    pub(crate) settings: Arc<PluginSettings>,
}

impl Candidate {
    /// Reads the manifest of `folder`.
    pub(crate) fn read(folder: &Path, rules: &Rules) -> Result<Self, Error> {
        Self::read_with(folder, rules, &Arc::default())
    }

    /// Reads the manifest of `folder` and applies `options` to it.
    pub(crate) fn read_with(
        folder: &Path,
        rules: &Rules,
        options: &Arc<LoadOptions>,
    ) -> Result<Self, Error> {
        let integrity =
            |error: ArtifactError| refused(folder, ErrorKind::Integrity).caused_by(error);
        trust::check(folder, rules.trust()).map_err(integrity)?;
        trust::check_above(folder, rules.trust()).map_err(integrity)?;
        let file = locate::inside(folder, discover::MANIFEST).map_err(integrity)?;
        let artifact = Artifact::read(&file, MAX_MANIFEST_BYTES as u64).map_err(integrity)?;
        artifact.check_trust(rules.trust()).map_err(integrity)?;
        let shown = folder.join(discover::MANIFEST);
        let text = String::from_utf8(artifact.bytes().to_vec()).map_err(|error| {
            let message = format!("`{}` is not UTF-8 text", shown.display());
            refused(folder, ErrorKind::Manifest)
                .caused_by(Error::new(ErrorKind::Manifest, message).caused_by(error))
        })?;
        let invalid = |error: ManifestError| refused(folder, ErrorKind::Manifest).caused_by(error);
        let manifest = Manifest::parse(&text, &shown).map_err(invalid)?;
        let stated_name = manifest.name().clone();
        let manifest = options.apply(manifest).map_err(invalid)?;
        let (folder, options) = (Some(folder.to_owned()), Arc::clone(options));
        let is_config_replaced = options.replaces_config();
        let this = Self::compiled_in(manifest);
        Ok(Self { folder, text, stated_name, options, is_config_replaced, ..this })
    }

    /// Verifies the signature of the folder, as the rules require. What the host reads itself is
    /// compared with the signature later, when its bytes are known.
    pub(crate) fn verify_signature(mut self, rules: &Rules, extent: Extent) -> Result<Self, Error> {
        let Some(folder) = &self.folder else { return Ok(self) };
        let (manifest, kind) = (&self.manifest, ErrorKind::Integrity);
        let library = manifest.library_stem().map(|stem| locate::library_file_name(&stem));
        let program = || manifest.command().first().and_then(|program| relative(program.as_ref()));
        let main = library.or_else(program);
        let plugin = SignedPlugin {
            name: &self.stated_name,
            version: manifest.version(),
            manifest: self.text.as_bytes(),
            main: main.as_deref(),
        };
        let signature = Signature::verify(folder, &plugin, rules, extent)
            .map_err(|error| self.failed(LoadStep::Signature, kind).caused_by(error))?;
        self.signature = signature;
        Ok(self)
    }

    /// Fails if the rules require a check of the signature that was not made.
    pub(super) fn ensure_signature_was_checked(&self, rules: &Rules) -> Result<(), Error> {
        let is_off = rules.signatures.policy() == SignaturePolicy::Off;
        match self.signature {
            Signature::NotChecked if self.folder.is_some() && !is_off => {
                Err(bug!("the signature of `{}` was not checked", self.manifest.name()))
            }
            _ => Ok(()),
        }
    }

    /// Applies what the configuration sets for the plugin, except where the application's options
    /// replace it, and what the host requires of libraries.
    pub(crate) fn with_settings(
        mut self,
        settings: &Arc<PluginSettings>,
        host: &ConfinementPolicy,
    ) -> Result<Self, Error> {
        let (keep_config, limits) = (self.options.replaces_config(), self.options.limits());
        let isolation = host.isolate_libraries.then_some(Isolation::Process);
        let manifest = settings.apply(self.manifest.clone(), keep_config, limits, isolation);
        let refused =
            |error: ManifestError| refused(self.place(), ErrorKind::Config).caused_by(error);
        self.manifest = manifest.map_err(refused)?;
        let (name, permissions) = (self.manifest.name(), self.manifest.permissions());
        let granted = permissions.iter().filter(|permission| settings.grants(name, permission));
        self.granted = granted.cloned().collect();
        self.is_config_replaced |= !keep_config && settings.has_config(name);
        self.settings = Arc::clone(settings);
        Ok(self)
    }

    /// Replaces messages about the config that may have a secret.
    pub(super) fn without_secrets(&self, error: SchemaError) -> SchemaError {
        let SchemaError::Value(mut violations) = error else { return error };
        let secrets = self.settings.secrets_of(self.manifest.name());
        for violation in &mut violations {
            let keys = violation.pointer.split('/').skip(1);
            let keys: Vec<_> = keys.map(|key| key.replace("~1", "/").replace("~0", "~")).collect();
            let has_secret = secrets.iter().any(|secret| {
                let shorter = secret.len().min(keys.len());
                secret[..shorter] == keys[..shorter]
            });
            if has_secret {
                violation.message =
                    "does not match the schema; it is not shown, since it may be a \
                                     secret"
                        .to_owned();
            }
        }
        SchemaError::Value(violations)
    }

    /// Returns a compiled-in plugin, with a manifest made in code.
    pub(crate) fn compiled_in(manifest: Manifest) -> Self {
        let granted = manifest.permissions().clone();
        let (text, options) = (String::new(), Arc::default());
        let is_config_replaced = false;
        let settings = Arc::default();
        Self {
            stated_name: manifest.name().clone(),
            signature: Signature::default(),
            manifest,
            folder: None,
            text,
            serving: None,
            granted,
            options,
            is_config_replaced,
            settings,
        }
    }

    /// Returns the error of a plugin whose requirements are not met.
    pub(crate) fn not_startable(&self, problem: Unstartable) -> Error {
        self.failed(LoadStep::Requires, ErrorKind::Requires).caused_by(problem)
    }

    /// Returns the folder for messages.
    pub(crate) fn place(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("."))
    }

    /// Returns the error of a failed step of this load.
    pub(crate) fn failed(&self, step: LoadStep, kind: ErrorKind) -> Error {
        let error = match self.serving {
            None => Error::new(kind, format!("failed to load at step `{step}`")),
            Some(serving) => reload_failed(step, kind, serving),
        };
        error.of(self.manifest.name()).at_step(step)
    }

    /// Returns whether it is a library or a program.
    pub(super) fn kind(&self) -> Kind {
        if self.folder.is_some() { self.manifest.kind() } else { Kind::Library }
    }

    /// Returns whether it is a library that runs in its own process.
    pub(super) fn is_isolated(&self) -> bool {
        self.kind() == Kind::Library
            && self.folder.is_some()
            && self.manifest.isolation() == Isolation::Process
    }

    /// Returns whether this process or another one runs its calls.
    pub(super) fn runs_as(&self) -> Kind {
        if self.is_isolated() { Kind::Process } else { self.kind() }
    }
}

fn refused(folder: &Path, kind: ErrorKind) -> Error {
    Error::new(kind, format!("cannot load a plugin from `{}`", folder.display()))
        .at_step(LoadStep::Manifest)
}

/// Options of [`Host::load_with`](crate::Host::load_with), which replace fields of `plugin.json`.
///
/// They apply to later reloads of the plugin too, except for the state. If they set no name, they
/// also apply when the watched manifest gets another name.
///
/// ```
/// use hotbay::LoadOptions;
/// use serde_json::json;
///
/// let options = LoadOptions::new()
///     .with_name("orders-eu")
///     .with_config(json!({ "region": "eu", "token": "secret" }));
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct LoadOptions {
    name: Option<String>,
    config: Option<Value>,
    limits: Option<Limits>,
    state: Option<Snapshot>,
}

impl LoadOptions {
    /// Creates options that replace nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the plugin, so that one folder can be loaded more than once. Validators,
    /// caches and preferences of the host apply to the plugin of this name.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the config, an object, instead of the one in the file. It must satisfy the manifest's
    /// `config_schema`. A secret set here is in no file of the plugin.
    pub fn with_config(mut self, config: Value) -> Self {
        self.config = Some(config);
        self
    }

    /// Sets the limits. A field that is `None` keeps the manifest's value.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Sets the state that the plugin restores before its first call.
    pub fn with_state(mut self, state: Snapshot) -> Self {
        self.state = Some(state);
        self
    }

    /// Takes the state out, which only the first generation gets.
    pub(crate) fn take_state(&mut self) -> Option<Snapshot> {
        self.state.take()
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn replaces_config(&self) -> bool {
        self.config.is_some()
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits.unwrap_or_default()
    }

    /// Returns `manifest` with its fields replaced.
    pub(super) fn apply(&self, mut manifest: Manifest) -> Result<Manifest, ManifestError> {
        if let Some(name) = &self.name {
            manifest = manifest.with_name(name)?;
        }
        if let Some(config) = &self.config {
            manifest = manifest.with_config(config.clone())?;
        }
        if let Some(limits) = &self.limits {
            let limits = limits.or(manifest.limits());
            manifest = manifest.with_limits(limits)?;
        }
        Ok(manifest)
    }
}

/// Prints no config: it may hold a secret.
impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Returns the error of a failed step of a reload that left `serving` current.
pub(crate) fn reload_failed(step: LoadStep, kind: ErrorKind, serving: GenerationId) -> Error {
    let message = format!("failed to reload at step `{step}` (generation {serving} keeps serving)");
    Error::new(kind, message).in_generation(serving).at_step(step)
}
