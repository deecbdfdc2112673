//! Checks a program against the protocol: reads and stages it as a load does, then runs the
//! test kit. The program serves no calls.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;

use hotbay_conformance::{Conformance, Report, Sample};
use hotbay_manifest::Kind;
use hotbay_process::{Capabilities, Diagnosis, Processes, Program};

use super::candidate::Candidate;
use super::confinement::confine;
use super::policy::{check_declared_config, effective_limits};
use super::process_loader::{check_identity, check_served, stage_program};
use super::sandbox_paths::SandboxHost;
use super::schemas::Schemas;
use super::survey::{SurveyRules, read_artifact};
use crate::artifact::digest::Artifact;
use crate::artifact::private_folder::sweep;
use crate::artifact::signature::Extent;
use crate::artifact::stage::StagingArea;
use crate::call::Request;
use crate::config::HostLimits;
use crate::error::{Error, ErrorKind, LoadStep};

/// The options of a check.
pub(crate) struct ConformanceRun<'a> {
    pub(crate) host: SurveyRules<'a>,
    pub(crate) limits: &'a HostLimits,
}

/// Checks the program in `folder` against the protocol.
pub(crate) fn check_program(
    folder: &Path,
    sample: Option<&Request<'_>>,
    options: &ConformanceRun<'_>,
) -> Result<Conformance, Error> {
    let SurveyRules { rules, settings, confinement, staging_dir, runner, .. } = options.host;
    let SurveyRules { environment, plugin_dirs, .. } = options.host;
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let candidate = Candidate::read(&folder, rules)?.with_settings(settings, confinement)?;
    let candidate = candidate.verify_signature(rules, Extent::Contents)?;
    let artifact = match candidate.kind() {
        Kind::Process => read_artifact(&candidate, rules)?,
        Kind::Library => None,
    };
    let Some(artifact) = artifact else {
        let failed = candidate.failed(LoadStep::Manifest, ErrorKind::Unsupported);
        return Err(failed.caused_by("it is a library; only processes use the protocol"));
    };
    let sample = sample.map(|sample| Sample::new(sample.content_type(), sample.as_bytes()));
    let mut report = Report::default();
    let schemas = Schemas::read(&candidate, rules);
    match schemas.and_then(|schemas| schemas.check(&candidate, None)) {
        Ok(_) => report.passed("manifest", format!("`{}`", candidate.manifest.command().join(" "))),
        Err(error) => report.failed("manifest", cause(&error)),
    }
    if !verified(&candidate, &artifact, &mut report) {
        return Ok(report.finish("the file does not match its manifest, so it was not run"));
    }
    let (limits, _) = effective_limits(candidate.manifest.limits(), Kind::Process, options.limits);
    let trust = rules.trust();
    let area = Arc::new(StagingArea::new(staging_dir, false));
    let mut program =
        match stage_program(&candidate, &artifact, &limits, &area, options.limits, trust) {
            Ok(program) => program,
            Err(error) => {
                report.failed("launch", cause(&error));
                return Ok(report.finish("the program could not be started"));
            }
        };
    let policy = confinement;
    let host = SandboxHost { policy, trust, staging_dir, runner, plugin_dirs, environment };
    if let Err(error) = confine(&candidate, host, &mut program) {
        report.failed("launch", cause(&error));
        return Ok(report.finish("the program could not be confined, so it was not run"));
    }
    run(candidate, program, sample, report)
}

/// Runs the kit on separate threads, since this thread may belong to a runtime.
fn run(
    candidate: Candidate,
    program: Program,
    sample: Option<Sample>,
    report: Report,
) -> Result<Conformance, Error> {
    let failed = candidate.failed(LoadStep::Launch, ErrorKind::StartFailed);
    let processes = Processes::default();
    let runtime = match processes.runtime(sweep) {
        Ok(runtime) => runtime,
        Err(error) => return Err(failed.caused_by(error)),
    };
    let declared =
        move |found: &Capabilities, report: &mut Report| declared(&candidate, found, report);
    let task = hotbay_conformance::check(program, sample, report, declared);
    let thread = std::thread::spawn(move || runtime.block_on(runtime.spawn(task)));
    match thread.join() {
        Ok(Ok(conformance)) => Ok(conformance),
        _ => {
            Err(failed.caused_by("the check ended before all steps ran; this is a bug in the host"))
        }
    }
}

/// Reports whether the digest matches; returns whether the file may be run.
fn verified(candidate: &Candidate, artifact: &Artifact, report: &mut Report) -> bool {
    let manifest = &candidate.manifest;
    let Some(digest) = manifest.sha256() else {
        report.skipped("digest", "plugin.json contains no `sha256`");
        return true;
    };
    match artifact.verify(Some(*digest.as_bytes()), manifest.length(), false) {
        Ok(()) => {
            report.passed("digest", "the SHA-256 matches plugin.json");
            true
        }
        Err(error) => {
            let (message, hint) = (error.to_string(), error.hint());
            report.failed("digest", Diagnosis { message, hint });
            false
        }
    }
}

/// Checks the program's capabilities against its manifest.
fn declared(candidate: &Candidate, capabilities: &Capabilities, report: &mut Report) {
    let has_identity = capabilities.name.is_some() || capabilities.version.is_some();
    let identity = check_identity(candidate, capabilities)
        .and_then(|()| check_served(candidate, capabilities, None));
    match identity {
        Ok(()) if has_identity => report.passed("identity", "name and version match plugin.json"),
        Ok(()) => report.skipped("identity", "the capabilities contain neither name nor version"),
        Err(error) => report.failed("identity", cause(&error)),
    }
    match check_declared_config(candidate, capabilities, None) {
        Ok(()) if capabilities.config_schema.is_some() => {
            report.passed("config", "the config matches `configSchema`");
        }
        Ok(()) => report.skipped("config", "the capabilities contain no `configSchema`"),
        Err(error) => report.failed("config", cause(&error)),
    }
}

/// Returns the cause without the message of the load, and the hint.
fn cause(error: &Error) -> Diagnosis {
    let message = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    Diagnosis { message, hint: error.hint().map(str::to_owned) }
}
