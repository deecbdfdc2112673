//! The schemas of a manifest: reads each once, checks the config, compiles the schema of the input,
//! and remembers what was checked before.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use hotbay_manifest::{
    Checker, ConfigSchema, MAX_MANIFEST_BYTES, SchemaError, Violation, position_of,
};
use lru::LruCache;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::candidate::Candidate;
use crate::artifact::digest::Artifact;
use crate::artifact::trust::Rules;
use crate::artifact::{discover, locate};
use crate::error::{Error, ErrorKind, LoadStep};
use crate::sync::lock;

/// The schemas of a candidate.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    config: Option<Schema>,
    input: Option<Schema>,
}

/// One schema, and the field that states it.
#[derive(Debug)]
struct Schema {
    field: &'static str,
    source: SchemaSource,
}

#[derive(Debug)]
enum SchemaSource {
    Inline(Value),
    /// The name of the file in the manifest, its path, and its content.
    File(String, PathBuf, Box<Artifact>),
}

impl Schemas {
    /// Reads the schemas of `candidate`.
    pub(crate) fn read(candidate: &Candidate, rules: &Rules) -> Result<Self, Error> {
        let read = |(field, stated): (_, Option<&ConfigSchema>)| {
            let source = match stated {
                None => return Ok::<_, Error>(None),
                Some(ConfigSchema::Inline(schema)) => SchemaSource::Inline(schema.clone()),
                Some(ConfigSchema::File(name)) => {
                    let (path, artifact) = read_file(candidate, name, rules)?;
                    SchemaSource::File(name.clone(), path, Box::new(artifact))
                }
            };
            Ok(Some(Schema { field, source }))
        };
        let [config, input] = candidate.manifest.schemas();
        Ok(Self { config: read(config)?, input: read(input)? })
    }

    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.config.is_none() && self.input.is_none()
    }

    /// Returns the digests of the schema files.
    pub(super) fn digests(&self) -> Vec<Option<[u8; 32]>> {
        let schemas = [&self.config, &self.input].into_iter().flatten();
        let digest = |schema: &Schema| match &schema.source {
            SchemaSource::File(_, _, artifact) => Some(Some(artifact.sha256())),
            SchemaSource::Inline(_) => None,
        };
        schemas.filter_map(digest).collect()
    }

    /// Validates the config against its schema; returns the checker of inputs if there is one.
    /// Messages point at the field. Stops at `deadline`.
    pub(crate) fn check(
        &self,
        candidate: &Candidate,
        deadline: Option<Instant>,
    ) -> Result<Option<Checker>, Error> {
        if let Some(schema) = &self.config {
            let checker = schema.compile(candidate, deadline)?;
            let checked = checker.check(candidate.manifest.config(), deadline);
            checked.map_err(|error| schema.error(candidate, "config", error))?;
        }
        self.input.as_ref().map(|schema| schema.compile(candidate, deadline)).transpose()
    }

    /// Returns the digest of everything that decides the result of [`check`](Self::check).
    fn key(&self, candidate: &Candidate) -> [u8; 32] {
        let mut all = Sha256::new();
        let mut add = |kind: u8, bytes: &[u8]| {
            all.update([kind]);
            all.update((bytes.len() as u64).to_le_bytes());
            all.update(bytes);
        };
        for schema in [&self.config, &self.input] {
            match schema.as_ref().map(|schema| &schema.source) {
                None => add(0, &[]),
                Some(SchemaSource::Inline(schema)) => add(1, schema.to_string().as_bytes()),
                Some(SchemaSource::File(_, _, artifact)) => add(2, &artifact.sha256()),
            }
        }
        add(1, candidate.manifest.config().to_string().as_bytes());
        all.finalize().into()
    }
}

impl Schema {
    fn compile(&self, candidate: &Candidate, deadline: Option<Instant>) -> Result<Checker, Error> {
        let checker = match &self.source {
            SchemaSource::Inline(schema) => Checker::new(schema, deadline),
            SchemaSource::File(_, path, artifact) => {
                let schema = serde_json::from_slice(artifact.bytes()).map_err(|error| {
                    candidate
                        .failed(LoadStep::Config, ErrorKind::Config)
                        .caused_by(format!("`{}` is not JSON: {error}", path.display()))
                })?;
                Checker::new(&schema, deadline)
            }
        };
        checker.map_err(|error| self.error(candidate, self.field, error))
    }

    /// Returns the error of an invalid schema, or of the value in `field` that does not match it.
    fn error(&self, candidate: &Candidate, field: &str, error: SchemaError) -> Error {
        let failed = candidate.failed(LoadStep::Config, ErrorKind::Config);
        let failed = failed.with_optional_hint(error.hint());
        let error = if field == "config" { candidate.without_secrets(error) } else { error };
        match (error, &self.source) {
            (SchemaError::Value(violations), _) => {
                let places =
                    violations.iter().map(|violation| position(candidate, field, violation));
                failed.caused_by(places.collect::<Vec<_>>().join("; "))
            }
            (SchemaError::Schema(mut violation), SchemaSource::Inline(_)) => {
                if violation.pointer.is_empty() {
                    violation.message.insert_str(0, "the schema ");
                }
                failed.caused_by(position(candidate, self.field, &violation))
            }
            (error, SchemaSource::File(file, ..)) => {
                failed.caused_by(format!("cannot use `{file}` as `{}`: {error}", self.field))
            }
            (error, SchemaSource::Inline(_)) => {
                failed.caused_by(format!("cannot use `{}`: {error}", self.field))
            }
        }
    }
}

/// Returns a message with the position of a violation in the manifest.
fn position(candidate: &Candidate, field: &str, violation: &Violation) -> String {
    let pointer = format!("/{field}{}", violation.pointer);
    let field = pointer.trim_start_matches('/').replace('/', ".");
    let is_in_file = !candidate.is_config_replaced || field.starts_with("config_");
    let Some(folder) = candidate.folder.as_ref().filter(|_| is_in_file) else {
        return format!("`{field}`: {}", violation.message);
    };
    let file = folder.join(discover::MANIFEST);
    match position_of(&candidate.text, &pointer) {
        Some((line, column)) => {
            format!("{}:{line}:{column}: `{field}`: {}", file.display(), violation.message)
        }
        None => format!("{}: `{field}`: {}", file.display(), violation.message),
    }
}

fn read_file(
    candidate: &Candidate,
    name: &str,
    rules: &Rules,
) -> Result<(PathBuf, Artifact), Error> {
    let failed = || candidate.failed(LoadStep::Config, ErrorKind::Config);
    let Some(folder) = &candidate.folder else {
        return Err(failed().caused_by("a compiled-in plugin cannot have a schema file"));
    };
    let file = locate::inside(folder, name).map_err(|error| failed().caused_by(error))?;
    let artifact = Artifact::read(&file, MAX_MANIFEST_BYTES as u64)
        .map_err(|error| failed().caused_by(error))?;
    artifact.check_trust(rules.trust()).map_err(|error| failed().caused_by(error))?;
    let artifact = candidate.signature.expect(artifact);
    let artifact = artifact.and_then(|artifact| artifact.verify_signed().map(|()| artifact));
    let artifact = artifact.map_err(|error| {
        candidate.failed(LoadStep::Signature, ErrorKind::Integrity).caused_by(error)
    })?;
    Ok((file, artifact))
}

/// Returns the digests of the schema files; `None` for a file that cannot be read.
pub(crate) fn schema_digests(candidate: &Candidate, rules: &Rules) -> Vec<Option<[u8; 32]>> {
    let files = candidate.manifest.schemas().into_iter().filter_map(|(_, schema)| match schema {
        Some(ConfigSchema::File(name)) => Some(name),
        _ => None,
    });
    let read = |name: &String| Some(read_file(candidate, name, rules).ok()?.1.sha256());
    files.map(read).collect()
}

/// Maximum number of remembered checks.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The checks that succeeded, by the digest of the schemas and the config. A reload or another
/// instance of a plugin usually has the same ones.
pub(crate) struct CheckedSchemas {
    checked: Mutex<LruCache<[u8; 32], InputChecker>>,
}

/// The compiled schema of the input, if there is one. It lives as long as a generation uses it.
type InputChecker = Option<Weak<Checker>>;

impl CheckedSchemas {
    /// Returns the compiled schema of the input, if there is one. Calls `check` if these schemas and
    /// this config were not checked before, or if the compiled schema is gone.
    pub(super) fn check(
        &self,
        candidate: &Candidate,
        schemas: Schemas,
        check: impl FnOnce(Schemas) -> Result<Option<Checker>, Error>,
    ) -> Result<Option<Arc<Checker>>, Error> {
        let key = schemas.key(candidate);
        match lock(&self.checked).get(&key) {
            None => {}
            Some(None) => return Ok(None),
            Some(Some(checker)) => {
                if let Some(checker) = checker.upgrade() {
                    return Ok(Some(checker));
                }
            }
        }
        let checker = check(schemas)?.map(Arc::new);
        lock(&self.checked).put(key, checker.as_ref().map(Arc::downgrade));
        Ok(checker)
    }
}

impl Default for CheckedSchemas {
    fn default() -> Self {
        Self { checked: LruCache::new(MAX_REMEMBERED).into() }
    }
}

impl fmt::Debug for CheckedSchemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedSchemas").finish_non_exhaustive()
    }
}
