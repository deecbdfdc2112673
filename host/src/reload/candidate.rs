//! The first steps of a load: a folder is read and judged by what its manifest says. None of
//! the library's bytes are looked at yet.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Rules;
use crate::artifact::digest::Artifact;
use crate::artifact::{discover, locate, trust};
use crate::error::artifact::ArtifactError;
use crate::error::manifest::{ConfigRefused, ConfigViolation, Unstartable};
use crate::error::{Error, ErrorKind, LoadStep};
use crate::id::GenerationId;
use crate::manifest::{
    Applicant, ConfigSchema, Kind, MANIFEST_BYTES_MAX, Manifest, check_config, position_of,
};

/// A plugin that may be loaded, as far as its manifest tells.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) manifest: Manifest,
    /// Where it lies; none when compiled in.
    pub(crate) folder: Option<PathBuf>,
    /// The manifest as it was read.
    pub(super) text: String,
    /// What keeps serving if this one is not loaded.
    pub(crate) serving: Option<GenerationId>,
}

impl Candidate {
    /// Reads the manifest of `folder`.
    pub(crate) fn read(folder: &Path, rules: &Rules) -> Result<Self, Error> {
        let integrity =
            |error: ArtifactError| refused(folder, ErrorKind::Integrity).caused_by(error);
        trust::check(folder, rules.trust()).map_err(integrity)?;
        let file = locate::inside(folder, discover::MANIFEST).map_err(integrity)?;
        let artifact = Artifact::read(&file, MANIFEST_BYTES_MAX as u64).map_err(integrity)?;
        artifact.check_trust(rules.trust()).map_err(integrity)?;
        let shown = folder.join(discover::MANIFEST);
        let text = String::from_utf8(artifact.bytes().to_vec()).map_err(|error| {
            let message = format!("`{}` is not UTF-8 text", shown.display());
            refused(folder, ErrorKind::Manifest)
                .caused_by(Error::new(ErrorKind::Manifest, message).caused_by(error))
        })?;
        let manifest = Manifest::parse(&text, &shown)
            .map_err(|error| refused(folder, ErrorKind::Manifest).caused_by(error))?;
        Ok(Self { manifest, folder: Some(folder.to_owned()), text, serving: None })
    }

    /// A plugin that is compiled in, with a manifest made in code.
    pub(crate) fn compiled_in(manifest: Manifest) -> Self {
        Self { manifest, folder: None, text: String::new(), serving: None }
    }

    /// What the order of starts is made from.
    pub(crate) fn applicant(&self) -> Applicant<'_> {
        let manifest = &self.manifest;
        Applicant {
            name: manifest.name(),
            version: manifest.version(),
            requires: manifest.requires(),
        }
    }

    /// The error of a plugin whose requirements are not met.
    pub(crate) fn not_startable(&self, problem: Unstartable) -> Error {
        self.failed(LoadStep::Requires, ErrorKind::Requires).caused_by(problem)
    }

    /// The folder, to be shown.
    pub(crate) fn place(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("."))
    }

    /// The error of a step of this load.
    pub(crate) fn failed(&self, step: LoadStep, kind: ErrorKind) -> Error {
        let error = match self.serving {
            None => Error::new(kind, format!("was not loaded, at the step `{step}`")),
            Some(serving) => {
                let message = format!(
                    "was not reloaded, at the step `{step}`; generation {serving} keeps serving"
                );
                Error::new(kind, message).in_generation(serving)
            }
        };
        error.of(self.manifest.name()).at_step(step)
    }

    /// Checks what the manifest alone can show to be impossible.
    pub(crate) fn check_kind(&self) -> Result<(), Error> {
        if self.manifest.kind() == Kind::Library || self.folder.is_none() {
            return Ok(());
        }
        let message = "its kind is `process`; this version of the host runs libraries only";
        Err(self.failed(LoadStep::Manifest, ErrorKind::Unsupported).caused_by(message))
    }

    /// Checks the config against the schema; messages point at the field.
    pub(crate) fn check_config(&self, rules: &Rules) -> Result<(), Error> {
        let failed = || self.failed(LoadStep::Config, ErrorKind::Config);
        let from_file;
        let (schema, file) = match self.manifest.config_schema() {
            None => return Ok(()),
            Some(ConfigSchema::Inline(schema)) => (schema, None),
            Some(ConfigSchema::File(name)) => {
                from_file = self.schema_of(name, rules)?;
                (&from_file, Some(name))
            }
        };
        let refused = match check_config(schema, self.manifest.config()) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        let ConfigRefused::Config(violations) = &refused else {
            let place = file.map_or("config_schema", String::as_str);
            return Err(failed().caused_by(format!("`{place}`: {refused}")));
        };
        let places: Vec<_> = violations.iter().map(|violation| self.position(violation)).collect();
        Err(failed().caused_by(places.join("; ")))
    }

    fn position(&self, violation: &ConfigViolation) -> String {
        let pointer = format!("/config{}", violation.pointer);
        let field = pointer.trim_start_matches('/').replace('/', ".");
        let Some(folder) = &self.folder else {
            return format!("`{field}`: {}", violation.message);
        };
        let file = folder.join(discover::MANIFEST);
        match position_of(&self.text, &pointer) {
            Some((line, column)) => {
                format!("{}:{line}:{column}: `{field}`: {}", file.display(), violation.message)
            }
            None => format!("{}: `{field}`: {}", file.display(), violation.message),
        }
    }

    fn schema_of(&self, name: &str, rules: &Rules) -> Result<Value, Error> {
        let failed = || self.failed(LoadStep::Config, ErrorKind::Config);
        let Some(folder) = &self.folder else {
            return Err(failed().caused_by("a compiled-in plugin has no folder for a schema file"));
        };
        let file = locate::inside(folder, name).map_err(|error| failed().caused_by(error))?;
        let artifact = Artifact::read(&file, MANIFEST_BYTES_MAX as u64)
            .map_err(|error| failed().caused_by(error))?;
        artifact.check_trust(rules.trust()).map_err(|error| failed().caused_by(error))?;
        serde_json::from_slice(artifact.bytes())
            .map_err(|error| failed().caused_by(format!("`{}`: {error}", file.display())))
    }
}

fn refused(folder: &Path, kind: ErrorKind) -> Error {
    Error::new(kind, format!("`{}` holds no plugin that can be loaded", folder.display()))
        .at_step(LoadStep::Manifest)
}
