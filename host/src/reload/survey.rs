//! Surveys plugins without running them: manifests and stamps.

use std::path::{Path, PathBuf};

use hotbay_manifest::{Digest, Kind, Manifest, check_api, check_stamp};
use semver::Version;

use super::candidate::Candidate;
use super::library_loader::pin_reason;
use super::{Rules, host_api};
use crate::artifact::digest::Artifact;
use crate::artifact::{discover, locate, trust};
use crate::boundary::probe::{Probed, exports, probe};
use crate::error::artifact::ArtifactError;
use crate::error::{Error, ErrorKind, LoadStep};

/// The result of a survey of one folder with a manifest.
#[derive(Debug)]
pub struct SurveyedPlugin {
    /// The folder.
    pub folder: PathBuf,
    /// The manifest; `None` if it cannot be read.
    pub manifest: Option<Manifest>,
    /// The library's stamp; `None` for processes.
    pub built: Option<Built>,
    /// Whether the file has the digest that the manifest states; `None` if that was not checked, or
    /// the manifest states none.
    pub verified: Option<bool>,
    /// The reason it cannot be loaded.
    pub problem: Option<Error>,
}

/// The build information in a library's stamp.
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
    /// Its panic strategy, such as `unwind`.
    pub panic: String,
}

/// Details about one plugin, found without running it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The result of the survey.
    pub surveyed: SurveyedPlugin,
    /// The library's file.
    pub library: Option<PathBuf>,
    /// The current digest of the file.
    pub sha256: Option<Digest>,
    /// The current length of the file in bytes.
    pub length: Option<u64>,
    /// The shared libraries that it links.
    pub needs: Vec<String>,
    /// The names that it exports.
    pub exports: Vec<String>,
    /// The reason the library will stay mapped when the plugin is replaced, according to its
    /// file.
    pub stays_mapped: Option<String>,
}

/// The result of [`search`].
#[derive(Debug, Default)]
pub(crate) struct FolderSearch {
    /// The folders with a manifest.
    pub(crate) folders: Vec<PathBuf>,
    /// The folders with a shared library and no manifest.
    pub(crate) without_manifest: Vec<PathBuf>,
    /// The problems of the search.
    pub(crate) problems: Vec<Error>,
}

/// Finds every folder with a manifest below `roots`, and the problems of the search.
pub(crate) fn folders(roots: &[PathBuf], rules: &Rules) -> (Vec<PathBuf>, Vec<Error>) {
    let found = search(roots, rules);
    (found.folders, found.problems)
}

/// Finds every folder with a manifest below `roots`.
///
/// Skips a folder if other users can write to one above it: they could replace it.
pub(crate) fn search(roots: &[PathBuf], rules: &Rules) -> FolderSearch {
    let FolderSearch { mut folders, mut without_manifest, mut problems } = FolderSearch::default();
    for root in roots {
        let skipped =
            |problem| Error::new(ErrorKind::Integrity, "a folder was skipped").caused_by(problem);
        // The search reports a root that does not exist.
        if let Err(problem) = trust::check_above(root, rules.trust())
            && !matches!(problem, ArtifactError::Read { .. })
        {
            problems.push(skipped(problem));
            continue;
        }
        let found = discover::find(root, discover::Limits::default());
        problems.extend(found.problems.into_iter().map(skipped));
        without_manifest.extend(found.without_manifest);
        for folder in found.folders {
            let parent = match folder.parent().unwrap_or(root) {
                // The parent of a bare name, and of `.`.
                parent if parent.as_os_str().is_empty() => Path::new("."),
                parent => parent,
            };
            match trust::check_chain(root, parent, rules.trust()) {
                Ok(()) => folders.push(folder),
                Err(problem) => problems.push(skipped(problem)),
            }
        }
    }
    // Roots may be nested.
    let mut unique = std::collections::HashSet::new();
    folders.retain(|folder| unique.insert(folder.clone()));
    without_manifest.retain(|folder| unique.insert(folder.clone()));
    FolderSearch { folders, without_manifest, problems }
}

/// Checks one folder: its manifest, its stamp, and its config against `config_schema`.
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
    if let Some(artifact) = library.as_ref().filter(|_| candidate.kind() == Kind::Library) {
        match check_library(&candidate, artifact) {
            Ok(probed) => surveyed.built = Some(built(probed)),
            Err(error) => surveyed.problem = Some(error),
        }
    }
    if surveyed.problem.is_none() {
        surveyed.problem = candidate.check_schemas(rules, None).err();
    }
    #[cfg(all(unix, feature = "process"))]
    if let Some(program) = library.filter(|_| candidate.kind() == Kind::Process)
        && surveyed.problem.is_none()
    {
        let checked = super::process_loader::check_executable(&candidate, program.path());
        surveyed.problem = checked.err();
    }
    surveyed.manifest = Some(candidate.manifest);
    surveyed
}

/// Inspects one folder in detail.
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
            inspection.stays_mapped = pin_reason(&probed);
            inspection.needs = probed.needs;
        }
        inspection.exports = exports(artifact.bytes()).unwrap_or_default();
    }
    inspection.length = Some(artifact.bytes().len() as u64);
    inspection.library = Some(artifact.path().to_owned());
    inspection.sha256 = Some(digest);
    inspection
}

/// Reads a candidate's library or program; `None` if it has neither.
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
pub(super) fn check_library(candidate: &Candidate, artifact: &Artifact) -> Result<Probed, Error> {
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
