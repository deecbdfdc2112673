//! What can be told of plugins without running anything of them: manifests and stamps.

use std::path::{Path, PathBuf};

use semver::Version;

use super::candidate::Candidate;
use super::library_loader::pinned_by_file;
use super::{Rules, host_api};
use crate::artifact::digest::Artifact;
use crate::artifact::{discover, locate, trust};
use crate::boundary::probe::{Probed, exports, probe};
use crate::error::artifact::ArtifactError;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::manifest::{Digest, Kind, Manifest, check_api, check_stamp};

/// One folder with a manifest, and what is known of it without running it.
#[derive(Debug)]
pub struct SurveyedPlugin {
    /// The folder.
    pub folder: PathBuf,
    /// The manifest, as far as it could be read.
    pub manifest: Option<Manifest>,
    /// What the library's stamp says; none for processes.
    pub built: Option<Built>,
    /// Whether the file has the digest that the manifest states; none where it was not looked
    /// at, or the manifest states none.
    pub verified: Option<bool>,
    /// Why it would not be loaded.
    pub problem: Option<Error>,
}

/// What a library's stamp says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Built {
    /// The package that it was built from.
    pub package: String,
    /// The package's version.
    pub version: Version,
    /// The version of the plugin API that it was built against.
    pub api: Version,
    /// The compiler.
    pub rustc: String,
    /// The target that it was built for.
    pub target: String,
    /// How panics are handled in it.
    pub panic: String,
}

/// Everything that is known of one plugin without running it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// What a survey tells.
    pub surveyed: SurveyedPlugin,
    /// The library's file.
    pub library: Option<PathBuf>,
    /// The digest of the file as it is.
    pub sha256: Option<Digest>,
    /// Bytes of the file as it is.
    pub length: Option<u64>,
    /// The shared libraries that it links.
    pub needs: Vec<String>,
    /// The names that it exports.
    pub exports: Vec<String>,
    /// Why the library will stay mapped when the plugin is replaced, as far as its file tells.
    pub stays_mapped: Option<String>,
}

/// Finds every folder with a manifest below `roots`; problems are those of the walk itself.
///
/// A folder above which others may write is passed over: they could put anything in its place.
pub(crate) fn folders(roots: &[PathBuf], rules: &Rules) -> (Vec<PathBuf>, Vec<Error>) {
    let mut folders = Vec::new();
    let mut problems = Vec::new();
    for root in roots {
        let passed_over = |problem| {
            Error::new(ErrorKind::Integrity, "a folder was passed over").caused_by(problem)
        };
        // One that is not there is told of by the walk.
        if let Err(problem) = trust::check_above(root, rules.trust())
            && !matches!(problem, ArtifactError::Read { .. })
        {
            problems.push(passed_over(problem));
            continue;
        }
        let found = discover::find(root, discover::Limits::default());
        problems.extend(found.problems.into_iter().map(passed_over));
        for folder in found.folders {
            let above = match folder.parent().unwrap_or(root) {
                // Of a name alone, and of `.`.
                above if above.as_os_str().is_empty() => Path::new("."),
                above => above,
            };
            match trust::check_chain(root, above, rules.trust()) {
                Ok(()) => folders.push(folder),
                Err(problem) => problems.push(passed_over(problem)),
            }
        }
    }
    // Roots may lie in each other.
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    (folders, problems)
}

/// Looks at one folder: its manifest, its stamp, and its config against `config_schema`.
pub(crate) fn survey(folder: &Path, rules: &Rules) -> SurveyedPlugin {
    let mut surveyed = SurveyedPlugin {
        folder: folder.to_owned(),
        manifest: None,
        built: None,
        verified: None,
        problem: None,
    };
    let candidate = match Candidate::read(folder, rules) {
        Ok(candidate) => candidate,
        Err(error) => {
            surveyed.problem = Some(error);
            return surveyed;
        }
    };
    let library = match read_artifact(&candidate, rules) {
        Ok(library) => library,
        Err(error) => {
            surveyed.problem = Some(error);
            surveyed.manifest = Some(candidate.manifest);
            return surveyed;
        }
    };
    if let Some(artifact) = library.filter(|_| candidate.kind() == Kind::Library) {
        match check(&candidate, &artifact) {
            Ok(probed) => surveyed.built = Some(built(probed)),
            Err(error) => surveyed.problem = Some(error),
        }
    }
    if surveyed.problem.is_none() {
        surveyed.problem = candidate.check_schemas(rules, None).err();
    }
    surveyed.manifest = Some(candidate.manifest);
    surveyed
}

/// Looks at one folder closely.
pub(crate) fn inspect(folder: &Path, rules: &Rules) -> Inspection {
    let surveyed = survey(folder, rules);
    let mut inspection = Inspection {
        surveyed,
        library: None,
        sha256: None,
        length: None,
        needs: Vec::new(),
        exports: Vec::new(),
        stays_mapped: None,
    };
    let Ok(candidate) = Candidate::read(folder, rules) else {
        return inspection;
    };
    let Ok(Some(artifact)) = read_artifact(&candidate, rules) else {
        return inspection;
    };
    let digest = Digest::new(artifact.sha256());
    let manifest = &candidate.manifest;
    let surveyed = &mut inspection.surveyed;
    surveyed.verified = manifest.sha256().map(|stated| *stated == digest);
    let stated = manifest.sha256().map(|digest| *digest.as_bytes());
    if let Err(error) = artifact.verify(stated, manifest.length(), rules.allow_unverified) {
        let error = candidate.failed(LoadStep::Digest, ErrorKind::Integrity).caused_by(error);
        surveyed.problem.get_or_insert(error);
    }
    if candidate.kind() == Kind::Library {
        if let Ok(probed) = probe(artifact.bytes()) {
            inspection.stays_mapped = pinned_by_file(&probed);
            inspection.needs = probed.needs;
        }
        inspection.exports = exports(artifact.bytes()).unwrap_or_default();
    }
    inspection.length = Some(artifact.bytes().len() as u64);
    inspection.library = Some(artifact.path().to_owned());
    inspection.sha256 = Some(digest);
    inspection
}

/// A candidate's library or program as it lies there now; none if it has none.
pub(crate) fn read_artifact(
    candidate: &Candidate,
    rules: &Rules,
) -> Result<Option<Artifact>, Error> {
    let manifest = &candidate.manifest;
    let Some(folder) = &candidate.folder else { return Ok(None) };
    let failed = |error| candidate.failed(LoadStep::Stage, ErrorKind::Integrity).caused_by(error);
    let path = match (manifest.library_stem(), manifest.command().first()) {
        (Some(stem), _) => locate::library(folder, folder, &stem),
        (None, Some(program)) => locate::inside(folder, program),
        (None, None) => return Ok(None),
    };
    let path = path.map_err(failed)?;
    let artifact = Artifact::read(&path, rules.max_library_bytes).map_err(failed)?;
    artifact.check_trust(rules.trust()).map_err(failed)?;
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    if candidate.kind() == Kind::Library {
        let dependencies = super::dependencies::read(candidate, folder, &artifact, rules)?;
        return Ok(Some(artifact.with_dependencies(dependencies)));
    }
    Ok(Some(artifact))
}

/// Probes a library and compares its stamp with its manifest and this host.
pub(super) fn check(candidate: &Candidate, artifact: &Artifact) -> Result<Probed, Error> {
    let manifest = &candidate.manifest;
    let probed = probe(artifact.bytes()).map_err(|error| {
        let file = Error::new(ErrorKind::Integrity, format!("`{}`", artifact.path().display()));
        let cause = file.caused_by(error);
        candidate.failed(LoadStep::Probe, ErrorKind::Integrity).caused_by(cause)
    })?;
    let stamp = &probed.stamp;
    let incompatible = || candidate.failed(LoadStep::Version, ErrorKind::Incompatible);
    check_stamp(manifest.package(), manifest.version(), &stamp.package, &stamp.version)
        .map_err(|error| incompatible().caused_by(*error))?;
    check_api(manifest.api(), &stamp.api, &host_api())
        .map_err(|error| incompatible().caused_by(error))?;
    Ok(probed)
}

fn built(probed: Probed) -> Built {
    let stamp = probed.stamp;
    Built {
        package: stamp.package,
        version: stamp.version,
        api: stamp.api,
        rustc: stamp.rustc,
        target: stamp.target,
        panic: stamp.panic,
    }
}
