//! The first steps of a load: a folder is read and judged by what its manifest says. None of
//! the library's bytes are looked at yet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::{LoadOptions, Rules};
use crate::artifact::digest::Artifact;
use crate::artifact::{discover, locate, trust};
use crate::error::artifact::ArtifactError;
use crate::error::manifest::{SchemaError, Unstartable, Violation};
use crate::error::{Error, ErrorKind, LoadStep};
use crate::id::GenerationId;
use crate::manifest::{
    Applicant, Checker, ConfigSchema, Kind, MANIFEST_BYTES_MAX, Manifest, position_of,
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
    /// What it is granted of its permissions: all, until the application was asked.
    pub(super) granted: BTreeSet<String>,
    /// What the application set in place of the manifest.
    pub(crate) options: Arc<LoadOptions>,
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
        let artifact = Artifact::read(&file, MANIFEST_BYTES_MAX as u64).map_err(integrity)?;
        artifact.check_trust(rules.trust()).map_err(integrity)?;
        let shown = folder.join(discover::MANIFEST);
        let text = String::from_utf8(artifact.bytes().to_vec()).map_err(|error| {
            let message = format!("`{}` is not UTF-8 text", shown.display());
            refused(folder, ErrorKind::Manifest)
                .caused_by(Error::new(ErrorKind::Manifest, message).caused_by(error))
        })?;
        let manifest = Manifest::parse(&text, &shown)
            .and_then(|manifest| options.apply(manifest))
            .map_err(|error| refused(folder, ErrorKind::Manifest).caused_by(error))?;
        let (folder, options) = (Some(folder.to_owned()), Arc::clone(options));
        Ok(Self { folder, text, options, ..Self::compiled_in(manifest) })
    }

    /// A plugin that is compiled in, with a manifest made in code.
    pub(crate) fn compiled_in(manifest: Manifest) -> Self {
        let granted = manifest.permissions().clone();
        let (text, options) = (String::new(), Arc::default());
        Self { manifest, folder: None, text, serving: None, granted, options }
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

    /// What runs its calls.
    pub(super) fn kind(&self) -> Kind {
        if self.folder.is_some() { self.manifest.kind() } else { Kind::Library }
    }

    /// Checks the config against its schema; answers with the one of the input, if there is
    /// one. Messages point at the field. Gives up at `deadline`.
    pub(crate) fn check_schemas(
        &self,
        rules: &Rules,
        deadline: Option<Instant>,
    ) -> Result<Option<Checker>, Error> {
        let [config, input] = self.manifest.schemas();
        if let Some(checker) = self.checker(config, rules, deadline)? {
            let unfit = checker.check(self.manifest.config(), deadline);
            unfit.map_err(|unfit| self.config_error("config", config, unfit))?;
        }
        self.checker(input, rules, deadline)
    }

    fn checker(
        &self,
        of: Schema<'_>,
        rules: &Rules,
        deadline: Option<Instant>,
    ) -> Result<Option<Checker>, Error> {
        let checker = match of.1 {
            None => return Ok(None),
            Some(ConfigSchema::Inline(schema)) => Checker::new(schema, deadline),
            Some(ConfigSchema::File(name)) => {
                let (file, artifact) = self.schema_file(name, rules)?;
                let schema = serde_json::from_slice(artifact.bytes()).map_err(|error| {
                    self.failed(LoadStep::Config, ErrorKind::Config)
                        .caused_by(format!("`{}`: {error}", file.display()))
                })?;
                Checker::new(&schema, deadline)
            }
        };
        checker.map(Some).map_err(|unfit| self.config_error(of.0, of, unfit))
    }

    /// The error of a schema that is wrong, or of the value in `field` that does not fit it.
    fn config_error(&self, field: &str, (schema, stated): Schema<'_>, unfit: SchemaError) -> Error {
        let failed = self.failed(LoadStep::Config, ErrorKind::Config);
        let failed = failed.with_optional_hint(unfit.hint());
        match (unfit, stated) {
            (SchemaError::Value(violations), _) => {
                let places = violations.iter().map(|violation| self.position(field, violation));
                failed.caused_by(places.collect::<Vec<_>>().join("; "))
            }
            (SchemaError::Schema(violation), Some(ConfigSchema::Inline(_))) => {
                let place = self.position(schema, &violation);
                failed.caused_by(place)
            }
            (unfit, Some(ConfigSchema::File(file))) => {
                failed.caused_by(format!("`{schema}` is `{file}`: {unfit}"))
            }
            (unfit, _) => failed.caused_by(format!("`{schema}`: {unfit}")),
        }
    }

    fn position(&self, field: &str, violation: &Violation) -> String {
        let pointer = format!("/{field}{}", violation.pointer);
        let field = pointer.trim_start_matches('/').replace('/', ".");
        let is_in_file = !self.options.replaces_config() || field.starts_with("config_");
        let Some(folder) = self.folder.as_ref().filter(|_| is_in_file) else {
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

    fn schema_file(&self, name: &str, rules: &Rules) -> Result<(PathBuf, Artifact), Error> {
        let failed = || self.failed(LoadStep::Config, ErrorKind::Config);
        let Some(folder) = &self.folder else {
            return Err(failed().caused_by("a compiled-in plugin has no folder for a schema file"));
        };
        let file = locate::inside(folder, name).map_err(|error| failed().caused_by(error))?;
        let artifact = Artifact::read(&file, MANIFEST_BYTES_MAX as u64)
            .map_err(|error| failed().caused_by(error))?;
        artifact.check_trust(rules.trust()).map_err(|error| failed().caused_by(error))?;
        Ok((file, artifact))
    }

    /// The digests of the schemas that lie in files; none for one that cannot be read.
    pub(crate) fn schema_digests(&self, rules: &Rules) -> Vec<Option<[u8; 32]>> {
        let files = self.manifest.schemas().into_iter().filter_map(|(_, schema)| match schema {
            Some(ConfigSchema::File(name)) => Some(name),
            _ => None,
        });
        let read = |name: &String| Some(self.schema_file(name, rules).ok()?.1.sha256());
        files.map(read).collect()
    }
}

/// A schema of the manifest: its field, and what stands there.
type Schema<'m> = (&'static str, Option<&'m ConfigSchema>);

fn refused(folder: &Path, kind: ErrorKind) -> Error {
    Error::new(kind, format!("`{}` holds no plugin that can be loaded", folder.display()))
        .at_step(LoadStep::Manifest)
}
