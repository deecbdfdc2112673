//! Surveys plugins without running them: manifests, stamps, and what the file of a library says about
//! unloading it. Opens a library only for the full report about its layout.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotbay_manifest::{
    Digest, Kind, Manifest, Sandbox, SignedFiles, Unload, check_api, check_stamp,
};
use hotbay_plugin::contract::ContractText;
use hotbay_plugin::text::{Lines, escaped};
use hotbay_sandbox::{Confinement, Delegated};
use semver::Version;

use super::bounds::{
    check, check_processes, confinement_of, effective, not_granted, refuse_sandbox,
};
use super::candidate::{Candidate, LoadOptions};
use super::context::{PermissionPolicy, host_api};
use super::contract_check::check_contracts;
use super::dependencies::stage;
use super::policy::{InspectedPermission, call_memory_note_of_process};
use super::schemas::Schemas;
use super::settings::PluginSettings;
use crate::artifact::digest::Artifact;
use crate::artifact::locate;
use crate::artifact::signature::{self, Extent};
use crate::artifact::stage::StagingArea;
use crate::artifact::trust::Rules;
use crate::boundary::probe::{Probed, exports, needs_only_known, probe};
use crate::boundary::{Image, Root};
use crate::config::ConfinementPolicy;
use crate::contracts::ContractRegistry;
use crate::error::boundary::BoundaryError;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::generation::unload::{WaitForThreads, close};
use crate::id::PluginName;
use crate::signatures::SignatureStatus;

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
    /// The signature of the folder, whose files were compared by name and length only, unless
    /// [`plugin`](crate::inspect::plugin) returned this.
    pub signature: SignatureStatus,
    /// The name of an additional instance of the folder's plugin, which the configuration names.
    pub instance: Option<PluginName>,
    /// Whether the configuration disables it.
    pub is_disabled: bool,
    /// Requests of its manifest that no host fulfills, as far as they are known without a load. One
    /// sentence each.
    pub notes: Vec<String>,
    /// The reason it cannot be loaded. What this machine cannot confine, and a missing runner of an
    /// isolated library, come last.
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
    /// The permissions that its manifest requests, and those that the configuration grants by name.
    pub permissions: Vec<InspectedPermission>,
    /// The contracts that it serves, according to its file.
    pub contracts: Vec<ContractText>,
    /// What its sandbox permits, if it has one: what the manifest requests and the host grants.
    pub sandbox: Option<Sandbox>,
    /// What the host does not grant of the sandbox in the manifest, or only in part, one sentence each.
    pub not_granted: Vec<String>,
    /// What this machine enforces of its sandbox; `None` if it has none.
    pub confinement: Option<Confinement>,
    /// The reason the library will stay mapped when the plugin is replaced, according to its
    /// file.
    pub stays_mapped: Option<String>,
}

/// What a host that is not built yet would load plugins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SurveyRules<'h> {
    pub(crate) rules: &'h Rules,
    pub(crate) settings: &'h Arc<PluginSettings>,
    pub(crate) confinement: &'h ConfinementPolicy,
    /// The program that runs isolated libraries, if the host sets it.
    #[cfg_attr(
        not(all(unix, feature = "process")),
        allow(dead_code, reason = "without processes, no library is isolated")
    )]
    pub(crate) runner: Option<&'h Path>,
    /// The variables that programs inherit besides the usual ones.
    pub(crate) environment: &'h [String],
    /// The folder of private copies.
    #[cfg_attr(
        not(all(unix, feature = "process")),
        allow(dead_code, reason = "without processes, nothing is confined")
    )]
    pub(crate) staging_dir: Option<&'h Path>,
    /// The folders that are searched for plugins.
    #[cfg_attr(
        not(all(unix, feature = "process")),
        allow(dead_code, reason = "without processes, nothing is confined")
    )]
    pub(crate) plugin_dirs: &'h [PathBuf],
}

/// Checks one folder: its manifest, its stamp, its config against `config_schema`, and whether it can
/// be confined.
///
/// The plugin has the settings of the configuration, and with `instance` that name.
pub(crate) fn survey(
    folder: &Path,
    host: SurveyRules<'_>,
    instance: Option<&PluginName>,
) -> SurveyedPlugin {
    let mut surveyed = survey_files(folder, host, instance);
    add_confinement_problem(&mut surveyed, host, instance);
    surveyed
}

fn survey_files(
    folder: &Path,
    host: SurveyRules<'_>,
    instance: Option<&PluginName>,
) -> SurveyedPlugin {
    let SurveyRules { rules, settings, .. } = host;
    let mut surveyed = SurveyedPlugin {
        folder: folder.to_owned(),
        manifest: None,
        built: None,
        verified: None,
        signature: SignatureStatus::default(),
        instance: instance.cloned(),
        is_disabled: instance.is_some_and(|name| settings.is_disabled(name)),
        notes: Vec::new(),
        problem: None,
    };
    let candidate = match read(folder, host, instance) {
        Ok(candidate) => candidate,
        Err(error) => {
            surveyed.problem = Some(error);
            return surveyed;
        }
    };
    surveyed.is_disabled = settings.is_disabled(candidate.manifest.name());
    if candidate.runs_as() == Kind::Process {
        surveyed.notes.extend(call_memory_note_of_process(candidate.manifest.limits()));
    }
    let candidate = match candidate.clone().verify_signature(rules, Extent::Names) {
        Ok(candidate) => candidate,
        Err(error) => {
            surveyed.problem = Some(error);
            surveyed.manifest = Some(candidate.manifest);
            return surveyed;
        }
    };
    surveyed.signature = candidate.signature.status();
    let library = match read_artifact(&candidate, rules) {
        Ok(library) => library,
        Err(error) => {
            surveyed.problem = Some(error);
            surveyed.manifest = Some(candidate.manifest);
            return surveyed;
        }
    };
    if let Some(artifact) = library.as_ref().filter(|_| candidate.kind() == Kind::Library) {
        match check_library(&candidate, artifact, None) {
            Ok(probed) => surveyed.built = Some(built(probed)),
            Err(error) => surveyed.problem = Some(error),
        }
    }
    if surveyed.problem.is_none() {
        let schemas = Schemas::read(&candidate, rules);
        let checked = schemas.and_then(|schemas| schemas.check(&candidate, None));
        surveyed.problem = checked.err();
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

/// Adds the problem of a plugin that the host cannot run or confine as it must, unless it has
/// another one.
fn add_confinement_problem(
    surveyed: &mut SurveyedPlugin,
    host: SurveyRules<'_>,
    instance: Option<&PluginName>,
) {
    if surveyed.problem.is_none() {
        let candidate = read(&surveyed.folder, host, instance);
        let checked = candidate.and_then(|candidate| check_confinement(&candidate, host));
        surveyed.problem = checked.err();
    }
}

fn check_confinement(candidate: &Candidate, host: SurveyRules<'_>) -> Result<(), Error> {
    if candidate.runs_as() == Kind::Library {
        return refuse_sandbox(candidate);
    }
    check_processes(candidate)?;
    check_runner(candidate, host)?;
    let cgroup = host.confinement.cgroup.clone().map(Delegated::inspect);
    check(candidate, host.confinement, cgroup)?;
    check_paths(candidate, host)
}

#[cfg(all(unix, feature = "process"))]
fn check_paths(candidate: &Candidate, host: SurveyRules<'_>) -> Result<(), Error> {
    let host = super::sandbox_paths::SandboxHost {
        policy: host.confinement,
        trust: host.rules.trust(),
        staging_dir: host.staging_dir,
        runner: host.runner,
        plugin_dirs: host.plugin_dirs,
        environment: host.environment,
    };
    super::sandbox_paths::check_paths(candidate, host)
}

#[cfg(not(all(unix, feature = "process")))]
fn check_paths(_: &Candidate, _: SurveyRules<'_>) -> Result<(), Error> {
    Ok(())
}

#[cfg(all(unix, feature = "process"))]
fn check_runner(candidate: &Candidate, host: SurveyRules<'_>) -> Result<(), Error> {
    if !candidate.is_isolated() {
        return Ok(());
    }
    super::runner_program::runner_of(candidate, host.runner, host.rules.trust()).map(drop)
}

#[cfg(not(all(unix, feature = "process")))]
fn check_runner(_: &Candidate, _: SurveyRules<'_>) -> Result<(), Error> {
    Ok(())
}

fn read(
    folder: &Path,
    host: SurveyRules<'_>,
    instance: Option<&PluginName>,
) -> Result<Candidate, Error> {
    let mut options = LoadOptions::new();
    if let Some(name) = instance {
        options = options.with_name(name.as_str());
    }
    let candidate = Candidate::read_with(folder, host.rules, &Arc::new(options))?;
    candidate.with_settings(host.settings, host.confinement)
}

/// Inspects one folder in detail.
pub(crate) fn inspect(
    folder: &Path,
    host: SurveyRules<'_>,
    policy: Option<&PermissionPolicy>,
    instance: Option<&PluginName>,
) -> Inspection {
    let mut inspection = inspect_files(folder, host, policy, instance);
    add_confinement_problem(&mut inspection.surveyed, host, instance);
    inspection
}

fn inspect_files(
    folder: &Path,
    host: SurveyRules<'_>,
    policy: Option<&PermissionPolicy>,
    instance: Option<&PluginName>,
) -> Inspection {
    let SurveyRules { rules, settings, confinement, .. } = host;
    let surveyed = survey_files(folder, host, instance);
    let mut inspection = Inspection {
        surveyed,
        library: None,
        sha256: None,
        length: None,
        needs: Vec::new(),
        exports: Vec::new(),
        permissions: Vec::new(),
        contracts: Vec::new(),
        sandbox: None,
        not_granted: Vec::new(),
        confinement: None,
        stays_mapped: None,
    };
    let Ok(mut candidate) = read(folder, host, instance) else {
        return inspection;
    };
    match candidate.permissions(policy, settings) {
        Ok(permissions) => inspection.permissions = permissions,
        Err(error) => _ = inspection.surveyed.problem.get_or_insert(error),
    }
    if candidate.runs_as() == Kind::Process {
        let (sandbox, _) = effective(&candidate.manifest, &candidate.settings, confinement);
        let cgroup = confinement.cgroup.clone().map(Delegated::inspect);
        inspection.confinement = sandbox
            .as_ref()
            .map(|sandbox| confinement_of(&candidate.manifest, sandbox, cgroup.clone()));
        inspection.sandbox = sandbox;
        inspection.not_granted = not_granted(&candidate, confinement, host.environment);
    }
    let surveyed = &mut inspection.surveyed;
    let candidate = match candidate.clone().verify_signature(rules, Extent::Contents) {
        Ok(candidate) => candidate,
        Err(error) => {
            surveyed.signature = SignatureStatus::NotChecked;
            surveyed.problem.get_or_insert(error);
            candidate
        }
    };
    let Ok(Some(artifact)) = read_artifact(&candidate, rules) else {
        return inspection;
    };
    if let Err(error) = artifact.verify_signed() {
        surveyed.signature = SignatureStatus::NotChecked;
        let error = candidate.failed(LoadStep::Signature, ErrorKind::Integrity).caused_by(error);
        surveyed.problem.get_or_insert(error);
    }
    let digest = Digest::new(artifact.sha256());
    let manifest = &candidate.manifest;
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
            inspection.contracts = probed.contracts;
        }
        inspection.exports = exports(artifact.bytes()).unwrap_or_default();
    }
    inspection.length = Some(artifact.bytes().len() as u64);
    inspection.library = Some(artifact.path().to_owned());
    inspection.sha256 = Some(digest);
    inspection
}

/// Returns the contracts that a library serves, according to its file.
pub(crate) fn contracts(library: &Path, rules: &Rules) -> Result<Vec<ContractText>, Error> {
    let failed = || Error::new(ErrorKind::Integrity, format!("`{}`", library.display()));
    let artifact = Artifact::read(library, rules.max_library_bytes)
        .map_err(|error| failed().caused_by(error))?;
    let probed = probe(artifact.bytes()).map_err(|error| failed().caused_by(error))?;
    Ok(probed.contracts)
}

/// Returns the list of the files in `folder`, to be signed.
pub(crate) fn files_to_sign(folder: &Path, rules: &Rules) -> Result<SignedFiles, Error> {
    let candidate = Candidate::read(folder, rules)?;
    let manifest = &candidate.manifest;
    signature::list_of(folder, manifest.name(), manifest.version(), rules.max_library_bytes)
        .map_err(|error| {
            candidate.failed(LoadStep::Signature, ErrorKind::Integrity).caused_by(error)
        })
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
    let artifact = candidate.signature.expect(artifact).map_err(failed)?;
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    if candidate.kind() == Kind::Library {
        let dependencies = super::dependencies::read(candidate, folder, &artifact, rules)?;
        return Ok(Some(artifact.with_dependencies(dependencies)));
    }
    Ok(Some(artifact))
}

/// Probes a library and compares its stamp with its manifest and this host.
///
/// With the application's contracts, checks that those of the library are compatible with them.
pub(super) fn check_library(
    candidate: &Candidate,
    artifact: &Artifact,
    contracts: Option<&ContractRegistry>,
) -> Result<Probed, Error> {
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
    check_contracts(candidate, &probed.contracts, contracts, LoadStep::Version)?;
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

/// Opens the library of `folder` and compares its root module with the host's.
///
/// Returns the full report of the differences, or `None` if there are none. Runs the library's
/// initializers in this process.
pub(crate) fn abi_report(folder: &Path, host: SurveyRules<'_>) -> Result<Option<String>, Error> {
    let rules = host.rules;
    let candidate = read(folder, host, None)?;
    if candidate.kind() != Kind::Library {
        return Ok(None);
    }
    if candidate.is_isolated() {
        let failed = candidate.failed(LoadStep::Confine, ErrorKind::Unsupported);
        return Err(failed.caused_by("it is isolated, so it is not opened in this process"));
    }
    let candidate = candidate.verify_signature(rules, Extent::Contents)?;
    let Some(artifact) = read_artifact(&candidate, rules)? else {
        return Ok(None);
    };
    let not_signed =
        |error| candidate.failed(LoadStep::Signature, ErrorKind::Integrity).caused_by(error);
    artifact.verify_signed().map_err(not_signed)?;
    check_library(&candidate, &artifact, None)?;
    let failed = |step| candidate.failed(step, ErrorKind::StartFailed);
    let area = StagingArea::new(None, false);
    let staged = stage(&area, &candidate, &artifact)?;
    let compare = move || -> Result<Option<String>, BoundaryError> {
        let image = Arc::new(Image::open(staged)?);
        let root = Root::of(&image);
        let report = match &root {
            Ok(_) => None,
            Err(error) => Some(error.report().map_or_else(|| error.to_string(), str::to_owned)),
        };
        // A library that stays mapped is harmless: this process was started for the report.
        let _ = close(image, root.ok(), None, WaitForThreads::Briefly);
        Ok(report)
    };
    let thread = std::thread::spawn(compare);
    let compared = thread.join().map_err(|_| failed(LoadStep::Open))?;
    compared.map_err(|error| failed(LoadStep::Open).caused_by(error))
}

/// Returns why an opened library must stay mapped, according to its manifest and file.
pub(super) fn retain_reason(manifest: &Manifest, probed: &Probed) -> Option<String> {
    if manifest.unload() == Unload::Keep {
        return Some("its manifest sets `unload` to `keep`".to_owned());
    }
    pin_reason_at_open(probed)
}

/// Returns notes for the author about unloading and reloading the library, from its file.
pub(super) fn notes(probed: &Probed) -> Vec<String> {
    let mut notes: Vec<_> =
        pin_reason(probed).iter().map(|why| format!("its library stays mapped: {why}")).collect();
    if probed.is_static_tls {
        notes.push(
            "its library uses static thread-local storage (`DF_STATIC_TLS`), which is scarce: after some \
            reloads, the dynamic loader may reject the library"
                .to_owned(),
        );
    }
    notes
}

/// Returns why a library will stay mapped, according to its file.
pub(super) fn pin_reason(probed: &Probed) -> Option<String> {
    pin_reason_at_open(probed).or_else(|| callback_reason(probed))
}

/// Returns the same for a library of which only the initializers ran.
fn pin_reason_at_open(probed: &Probed) -> Option<String> {
    if let Some(pin) = &probed.pin {
        return Some(pin.to_string());
    }
    let unknown = needs_only_known(&probed.needs).err()?;
    let unknown = unknown.join(", ");
    Some(format!("it links {}, which this host does not know", escaped(&unknown, Lines::One)))
}

/// Returns why it may be called back: the first such function that it imports.
pub(super) fn callback_reason(probed: &Probed) -> Option<String> {
    let first = probed.callbacks.first()?;
    Some(format!("it imports `{}`, {}", first.name, first.consequence))
}
