//! A program that is only held against the protocol: read and staged as for a load, then handed
//! to the supervisor's kit. Nothing of it serves anybody.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::HeaderValue;

use super::Rules;
use super::candidate::Candidate;
use super::effective_limits::within;
use super::policy::check_declared_config;
use super::process_loader::{check_identity, staged};
use super::survey::read_artifact;
use crate::artifact::digest::Artifact;
use crate::artifact::stage::StagingArea;
use crate::call::Request;
use crate::config::HostLimits;
use crate::conformance::Conformance;
use crate::error::{Error, ErrorKind, LoadStep};
use crate::manifest::Kind;
use crate::supervisor::{Capabilities, Processes, Program, Report, Sample, TestKit, allowed};

/// What a check goes by.
pub(crate) struct ConformanceRun<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) limits: &'a HostLimits,
    pub(crate) environment: &'a [String],
    pub(crate) staging_dir: Option<&'a Path>,
}

/// Holds the program in `folder` against the protocol.
pub(crate) fn check_program(
    folder: &Path,
    sample: Option<&Request<'_>>,
    trying: &ConformanceRun<'_>,
) -> Result<Conformance, Error> {
    let candidate = Candidate::read(folder, trying.rules)?;
    let artifact = match candidate.kind() {
        Kind::Process => read_artifact(&candidate, trying.rules)?,
        Kind::Library => None,
    };
    let Some(artifact) = artifact else {
        let failed = candidate.failed(LoadStep::Manifest, ErrorKind::Unsupported);
        return Err(failed.caused_by("it is a library; only programs speak the protocol"));
    };
    let sample = sample.map(sample_of);
    let mut report = Report::default();
    match candidate.check_schemas(trying.rules, None) {
        Ok(_) => report.passed("manifest", format!("`{}`", candidate.manifest.command().join(" "))),
        Err(error) => report.failed("manifest", cause(&error)),
    }
    if !verified(&candidate, &artifact, &mut report) {
        return Ok(report.finish("what is not known to be the program is not run"));
    }
    let (limits, _) = within(candidate.manifest.limits(), Kind::Process, trying.limits);
    let trust = trying.rules.trust();
    let area = Arc::new(StagingArea::new(trying.staging_dir, false));
    let program = match staged(&candidate, &artifact, &limits, &area, trying.limits, trust) {
        Ok(program) => program,
        Err(error) => {
            report.failed("launch", cause(&error));
            return Ok(report.finish("it could not be started"));
        }
    };
    let environment = allowed(std::env::vars_os(), trying.environment);
    let kit = TestKit::new(Program { environment, ..program }, sample, report);
    run(candidate, kit)
}

/// Runs the kit on threads of its own, since this one may be a runtime's.
fn run(candidate: Candidate, mut kit: TestKit) -> Result<Conformance, Error> {
    let failed = candidate.failed(LoadStep::Launch, ErrorKind::StartFailed);
    let processes = Processes::default();
    let runtime = match processes.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Err(failed.caused_by(error)),
    };
    let task = async move {
        if let Some(capabilities) = kit.ask_capabilities().await.cloned() {
            declared(&candidate, &capabilities, &mut kit.report);
        }
        kit.finish().await
    };
    let waits = std::thread::spawn(move || runtime.block_on(runtime.spawn(task)));
    match waits.join() {
        Ok(Ok(conformance)) => Ok(conformance),
        _ => Err(failed.caused_by("the check itself ended early; this is a mistake of the host's")),
    }
}

/// Whether the file may be run.
fn verified(candidate: &Candidate, artifact: &Artifact, report: &mut Report) -> bool {
    let manifest = &candidate.manifest;
    let Some(digest) = manifest.sha256() else {
        report.skipped("digest", "plugin.json states no `sha256`");
        return true;
    };
    match artifact.verify(Some(*digest.as_bytes()), manifest.length(), false) {
        Ok(()) => {
            report.passed("digest", "the file has the SHA-256 that plugin.json states");
            true
        }
        Err(error) => {
            report.failed("digest", error.to_string());
            false
        }
    }
}

/// What the program says of itself, held against its manifest.
fn declared(candidate: &Candidate, capabilities: &Capabilities, report: &mut Report) {
    let says_who = capabilities.name.is_some() || capabilities.version.is_some();
    match check_identity(candidate, capabilities) {
        Ok(()) if says_who => report.passed("identity", "name and version are the manifest's"),
        Ok(()) => report.skipped("identity", "it tells neither name nor version"),
        Err(error) => report.failed("identity", cause(&error)),
    }
    match check_declared_config(candidate, capabilities, None) {
        Ok(()) if capabilities.config_schema.is_some() => {
            report.passed("config", "the config fits the `configSchema`");
        }
        Ok(()) => report.skipped("config", "it tells no `configSchema`"),
        Err(error) => report.failed("config", cause(&error)),
    }
}

/// Why, without the words of a load that nobody asked for.
fn cause(error: &Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn sample_of(request: &Request<'_>) -> Sample {
    let content_type = HeaderValue::try_from(request.content_type());
    Sample {
        content_type: content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
        bytes: Bytes::copy_from_slice(request.as_bytes()),
    }
}
